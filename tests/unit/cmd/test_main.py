# Licensed under the Apache License, Version 2.0 (the "License"); you may
# not use this file except in compliance with the License. You may obtain
# a copy of the License at
#
#      http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS, WITHOUT
# WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the
# License for the specific language governing permissions and limitations
# under the License.

import types

import pytest

from nova_snapdriver.cmd import base
from nova_snapdriver.cmd import main


def command(run):
    """A subcommand with one option."""
    return types.SimpleNamespace(
        __doc__='Count.\n\nMore about it.', run=run,
        add_arguments=lambda parser: parser.add_argument('--number', type=int))


@pytest.fixture
def loaded(monkeypatch):
    """Make "register" the subcommand that a test puts in here."""
    commands = {}
    monkeypatch.setattr(main, '_load', commands.__getitem__)
    return commands


def test_command_gets_its_arguments(loaded):
    loaded['register'] = command(lambda args: args.number)
    assert main.main(['register', '--number', '7']) == 7


def test_command_error_is_one_line_and_status_1(loaded, capsys):
    def fail(args):
        raise base.CommandError('the disk is full')

    loaded['register'] = command(fail)
    assert main.main(['register']) == 1
    assert capsys.readouterr() == ('', 'nova-snapdriver: the disk is full\n')


def test_command_describes_itself(loaded, capsys):
    loaded['register'] = command(None)
    with pytest.raises(SystemExit) as stopped:
        main.main(['register', '--help'])
    assert stopped.value.code == 0
    assert 'Count.' in capsys.readouterr().out


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit) as stopped:
        main.main(['--help'])
    assert stopped.value.code == 0
    printed = capsys.readouterr().out
    assert all(f'  {name} ' in printed for name in main.COMMANDS)


@pytest.mark.parametrize('name', main.COMMANDS)
def test_every_command_can_be_loaded(name, capsys):
    with pytest.raises(SystemExit) as stopped:
        main.main([name, '--help'])
    assert stopped.value.code == 0


@pytest.mark.parametrize('arguments', [[], ['frobnicate'], ['--frobnicate']])
def test_wrong_usage_is_status_2(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main.main(arguments)
    assert stopped.value.code == 2
    assert 'usage: nova-snapdriver' in capsys.readouterr().err

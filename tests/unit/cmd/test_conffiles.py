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

"""The configuration of a command, which may be missing or wrong."""

import argparse

import pytest

from nova_snapdriver.cmd import base
from nova_snapdriver.cmd import conffiles
from nova_snapdriver.cmd import main


@pytest.fixture(autouse=True)
def as_before():
    yield
    conffiles.CONF.reset()


@pytest.fixture
def conf(tmp_path):
    def write(text):
        path = tmp_path / 'nova.conf'
        path.write_text(text)
        return str(path)
    return write


def load(*files):
    return conffiles.load(argparse.Namespace(config_file=list(files)))


def test_journal_of_the_host_that_is_named(conf, tmp_path):
    found = load(conf('[DEFAULT]\nhost = compute-7\n[snapdriver]\n'
                      'journal_directory = %s/j\n' % tmp_path))
    assert found.host == 'compute-7'
    assert str(found._directory) == str(tmp_path / 'j')


@pytest.mark.parametrize('text', (
    'no configuration', '[snapdriver]\njournal_directory = $nothing\n',
    '[DEFAULT\n'))
def test_wrong_configuration_is_an_error(text, conf):
    with pytest.raises(base.CommandError, match='configuration'):
        load(conf(text))


def test_file_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(base.CommandError, match='none.conf'):
        load(str(tmp_path / 'none.conf'))


def test_no_configuration_at_all_is_an_error(monkeypatch, tmp_path):
    """Else the journal of the defaults would be shown: an empty one."""
    monkeypatch.setattr('oslo_config.cfg.find_config_files',
                        lambda *args, **kwargs: [])
    monkeypatch.setattr('oslo_config.cfg.find_config_dirs',
                        lambda *args, **kwargs: [])
    with pytest.raises(base.CommandError, match='--config-file'):
        load()


def test_files_of_the_service_are_read_in_its_order(monkeypatch, tmp_path):
    """Debian's nova-compute.conf is read after nova.conf."""
    etc = tmp_path / '.nova'
    etc.mkdir()
    (etc / 'nova.conf').write_text('[DEFAULT]\nhost = nova\n')
    (etc / 'nova-compute.conf').write_text(
        '[DEFAULT]\nhost = compute\n[snapdriver]\njournal_directory = %s\n' %
        tmp_path)
    (etc / 'nova-snapdriver.conf').write_text('[DEFAULT]\nhost = command\n')
    monkeypatch.setenv('HOME', str(tmp_path))
    assert load().host == 'compute'


@pytest.mark.parametrize('command', ('list', 'recover'))
def test_commands_print_one_line_and_status_1(command, tmp_path, capsys):
    assert main.main([command, '--config-file',
                      str(tmp_path / 'none.conf')]) == 1
    out, err = capsys.readouterr()
    assert out == ''
    assert err.startswith('nova-snapdriver: configuration: ')
    assert 'Traceback' not in err


def test_interrupted_command_is_no_traceback(monkeypatch, capsys):
    def interrupt(name):
        raise KeyboardInterrupt

    monkeypatch.setattr(main, '_load', interrupt)
    assert main.main(['recover']) == 1
    assert 'is still noted' in capsys.readouterr().err

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

"""What the subcommands of lab/run have in common."""

import argparse
import json
import pathlib
import subprocess
import sys

import pytest

from lab import __main__
from lab import command

ROOT = pathlib.Path(command.__file__).parents[1]


def parse(*words):
    parser = argparse.ArgumentParser()
    for add in (command.add_json, command.add_only, command.add_seed):
        add(parser)
    return parser.parse_args(words)


def test_files_are_relative_to_the_caller(monkeypatch, tmp_path):
    monkeypatch.setenv('SNAPDRIVER_CALLER_DIR', str(tmp_path))
    assert parse('--json', 'a/b').json == tmp_path / 'a/b'
    assert parse('--json', '/a').json == pathlib.Path('/a')


def test_rows_are_chosen_by_any_of_the_words():
    rows = [command.Row(name) for name in ('live raw', 'cold raw', 'live')]
    found = command.chosen(rows, parse('--only', 'cold', '--only', 'live r'
                                       ).only)
    assert [row.name for row in found] == ['live raw', 'cold raw']
    assert command.chosen(rows, parse().only) == rows


def test_each_row_is_saved_as_it_comes(tmp_path, capsys):
    table = command.Table(lambda row: f'{row.name} {row.ok}',
                          tmp_path / 'rows')
    table.add(command.Row('one'))
    table.add(command.Row('other', problems=['broken']))
    assert [row['ok'] for row in json.loads(
        (tmp_path / 'rows').read_text())['rows']] == [True, False]
    assert table.status() == 1
    assert capsys.readouterr().out == (
        'one True\nother False\n    broken\n1 of 2 rows are ok\n')


def test_no_rows_are_a_failure():
    assert command.Table(str).status() == 1


@pytest.mark.parametrize('name', __main__.COMMANDS)
def test_help_needs_the_standard_library_alone(name):
    """A fresh machine has nothing else."""
    done = subprocess.run([sys.executable, '-S', '-m', 'lab', name, '--help'],
                          cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f'lab/run {name}' in done.stdout

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

"""What the docs show of each command is what the command prints."""

import argparse
import pathlib
import textwrap

import pytest

from nova_snapdriver.cmd import list as snap_list
from nova_snapdriver.cmd import main
from nova_snapdriver.cmd import recover
from nova_snapdriver.cmd import snapshot
from nova_snapdriver import journal
from nova_snapdriver.recovery import undo

DOCS = pathlib.Path(__file__).parents[3] / 'doc/source'
WEB, DB = ('2f9c4b1e-6a6d-4a83-9c0a-0d3f5e8c1b11',
           '7d1a0c52-98e4-4d0b-b6f6-5b1f6f0a2c22')
NEW, OLD = ('9b2f0c6e-3d6b-4c3f-8d0e-7a51f0d3c1aa',
            'c05e7a84-11ab-4a5e-9f3e-2f6d7b8e9cbb')
ROWS = [snap_list.Row('running', WEB, NEW, 'live', 31, 536870912, 1178206208),
        snap_list.Row('abandoned', DB, OLD, 'mirror', 5400)]
ENTRY = journal.Entry('compute-1', DB, OLD, '/w', '/s',
                      '2026-11-28T06:00:00+00:00')
OUTCOME = undo.Outcome(ENTRY, 'live', (
    'ended its backup job', 'thawed the guest', 'deleted image ' + OLD), ())
RESULT = {'path': 'disk.qcow2', 'size': 1178206208, 'seconds': 9.4,
          'method': 'live', 'consistency': 'filesystem',
          'algorithm': 'sha256',
          'digest': '4d1c8e5b2a97f0366e0b1d9a7c5f42e8'
                    'b03a6d94f1c87e25a90d3b6f8e417c52'}


def in_docs(text, page='operations.rst'):
    shown = textwrap.indent(text.strip('\n'), '  ')
    return shown in (DOCS / page).read_text()


def test_list():
    assert in_docs(snap_list._table(ROWS))


@pytest.mark.parametrize('dry_run', (True, False))
def test_recover(dry_run, capsys):
    recover._print('image %s of instance %s' % (OLD, DB), OUTCOME,
                   argparse.Namespace(dry_run=dry_run, json=False))
    assert in_docs(capsys.readouterr().out)


def test_snapshot(capsys):
    snapshot._print(RESULT, False)
    assert in_docs(capsys.readouterr().out)


def test_help(monkeypatch):
    monkeypatch.setenv('COLUMNS', '79')
    assert in_docs(main._parser().format_help(), 'cli.rst')

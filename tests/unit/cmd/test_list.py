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

"""What "nova-snapdriver list" shows, and its exit status."""

import argparse
import contextlib
import dataclasses
import io
import json
import os
from unittest import mock

import pytest
from rich import console as rich_console

from nova_snapdriver.cmd import base
from nova_snapdriver.cmd import conffiles
from nova_snapdriver.cmd import list as snap_list
from nova_snapdriver import journal
from tests.unit import journal_entry

ENTRY = journal_entry.ENTRY
BAR = '━'


@pytest.fixture
def entries(tmp_path):
    return journal.Journal(str(tmp_path / 'journal'), journal_entry.HOST)


@pytest.fixture
def listed(entries, capsys, tmp_path):
    """Run the command; give its status and the lines of both outputs."""
    def call(as_json=False, watch=False):
        with mock.patch.object(conffiles, 'load', return_value=entries):
            status = snap_list.run(argparse.Namespace(
                json=as_json, watch=watch,
                journal_directory=str(tmp_path / 'none')))
        shown = capsys.readouterr()
        if as_json:
            return status, json.loads(shown.out), shown.err.splitlines()
        return status, shown.out.splitlines()[1:], shown.err.splitlines()
    return call


def abandon(entries, **changes):
    with contextlib.closing(entries.begin(
            dataclasses.replace(ENTRY, **changes))) as record:
        record.note_planned(journal.Planned('live'))
        record.progress(1, 4)


def test_nothing(listed):
    assert listed() == (0, [], [])


def test_running_and_abandoned(entries, listed):
    abandon(entries)
    with entries.begin(dataclasses.replace(ENTRY, image=ENTRY.instance)):
        status, (running, abandoned), errors = listed()
    assert (status, errors) == (0, [])
    assert running.split()[:4] == ['running', ENTRY.instance, ENTRY.instance,
                                   '-']
    words = abandoned.split()
    assert words[:4] == ['abandoned', ENTRY.instance, ENTRY.image, 'live']
    assert words[-2:] == ['1', '25%']


def test_json(entries, listed):
    abandon(entries)
    status, (row,), errors = listed(as_json=True)
    assert (status, errors) == (0, [])
    assert row.pop('age_seconds') > 0
    assert row == {'state': 'abandoned', 'instance': ENTRY.instance,
                   'image': ENTRY.image, 'path': 'live', 'done': 1,
                   'length': 4}


def rendered(rows):
    """What a terminal of this width shows."""
    console = rich_console.Console(width=180, file=io.StringIO())
    console.print(snap_list._live_table(rows))
    return console.file.getvalue().splitlines()


def test_live_table_has_a_bar_for_each(entries):
    with entries.begin(ENTRY) as record:
        record.progress(3, 4)
        heading, line = rendered(snap_list._all_rows([entries]))
        record.progress(4, 4)
        _, whole = rendered(snap_list._all_rows([entries]))
    assert heading.split() == [*snap_list._HEADINGS, 'PROGRESS']
    assert line.split()[:3] == ['running', ENTRY.instance, ENTRY.image]
    assert '75%' in line
    assert 0 < line.count(BAR) < whole.count(BAR) == snap_list._BAR_WIDTH


def test_watch_looks_again_until_it_is_interrupted(entries, listed):
    abandon(entries)
    with (mock.patch.object(snap_list, '_live_table',
                            side_effect=snap_list._live_table) as shown,
          mock.patch('time.sleep', side_effect=[None, KeyboardInterrupt])):
        status, _, errors = listed(watch=True)
    assert (status, errors) == (0, [])
    assert shown.call_count == 2


def test_without_rich_the_table_is_there_all_the_same(entries, listed):
    abandon(entries)
    with mock.patch.dict('sys.modules', {'rich': None, 'rich.live': None}):
        assert len(listed()[1]) == 1
        with pytest.raises(base.CommandError, match='needs rich'):
            listed(watch=True)


def test_file_that_is_not_whole_is_named(entries, listed):
    with entries.begin(ENTRY) as record:
        record.note_target('/backup/.snapdriver-0.part')
        _, (running,), _ = listed()
    assert running.split()[2] == '/backup/.snapdriver-0.part'


def test_list_undoes_nothing(entries, listed, tmp_path):
    abandon(entries)
    before = sorted(tmp_path.rglob('*'))
    listed()
    assert listed()[1]
    assert sorted(tmp_path.rglob('*')) == before


def damage(path, content):
    path.write_text(content)


@pytest.mark.parametrize('make, words', (
    (lambda entries, path: abandon(entries, host='compute-2'),
     'run "nova-snapdriver recover" there'),
    (lambda entries, path: damage(path, '{"version": 3}'),
     'of the version that wrote it'),
    (lambda entries, path: damage(path, '{"version": 2, "ho'),
     'then remove it'),
    (lambda entries, path: path.mkdir(), 'the user of nova-compute')))
def test_entry_that_is_not_for_us_is_told_with_what_to_do(
        make, words, entries, listed, tmp_path):
    abandon(entries)
    make(entries, tmp_path / 'journal' / 'x.json')
    status, shown, (error,) = listed()
    assert status == 1
    assert len(shown) == 1
    assert error.startswith('nova-snapdriver: %s/' % (tmp_path / 'journal'))
    assert words in error


def test_companion_that_is_nonsense_is_no_traceback(entries, listed,
                                                    tmp_path):
    abandon(entries)
    for suffix in ('planned', 'progress', 'whole'):
        path, = (tmp_path / 'journal').glob('*.json')
        path.with_suffix('.' + suffix).write_text('[[')
    assert '?' in listed()[1][0].split()


def test_directory_that_cannot_be_read_is_an_error(listed):
    """Root reads all, so the error is not a real one."""
    with (mock.patch('os.listdir', side_effect=PermissionError(
            13, os.strerror(13))),
          pytest.raises(base.CommandError, match='journal_directory.*denied')):
        listed()

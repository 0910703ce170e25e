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

import json
import os
import re
import stat
import subprocess
import sys

import pytest

from nova_snapdriver import exception
from nova_snapdriver import journal
from tests.unit import journal_entry


@pytest.fixture
def entries(tmp_path):
    return journal.Journal(str(tmp_path / 'journal'), journal_entry.HOST)


def files(tmp_path):
    return sorted((tmp_path / 'journal').iterdir())


def test_running_while_it_is_held_and_gone_afterwards(entries, tmp_path):
    with entries.begin(journal_entry.ENTRY) as record:
        record.progress(3, 4)
        running = [(found.entry, found.sent()) for found in entries.running()]
        assert running == [(journal_entry.ENTRY, (3, 4))]
        assert list(entries.abandoned()) == []
    assert files(tmp_path) == []


def test_private_whatever_the_umask(entries, tmp_path):
    before = os.umask(0)
    try:
        with entries.begin(journal_entry.ENTRY):
            directory = tmp_path / 'journal'
            for path, mode in ((directory, 0o700), (files(tmp_path)[0],
                                                    0o600)):
                assert stat.S_IMODE(path.stat().st_mode) == mode
    finally:
        os.umask(before)


def test_gone_after_an_error(entries, tmp_path):
    with pytest.raises(ZeroDivisionError), entries.begin(journal_entry.ENTRY):
        raise ZeroDivisionError
    assert files(tmp_path) == []


def test_kept_when_something_is_left(entries):
    with entries.begin(journal_entry.ENTRY) as record:
        record.keep()
    found, = entries.abandoned()
    with found:
        assert found.entry == journal_entry.ENTRY
    assert list(entries.abandoned()) == []


def test_killed_process_leaves_it_abandoned(entries, tmp_path):
    code = ('import os, signal\n'
            'from tests.unit import journal_entry as t\n'
            'from nova_snapdriver import journal\n'
            'r = journal.Journal(%r, t.HOST).begin(t.ENTRY)\n'
            'r.progress(1, 2)\n'
            'os.kill(os.getpid(), signal.SIGKILL)\n' %
            str(tmp_path / 'journal'))
    ended = subprocess.run([sys.executable, '-c', code])
    assert ended.returncode == -9
    assert list(entries.running()) == []
    found, = entries.abandoned()
    with found:
        assert (found.entry, found.sent()) == (journal_entry.ENTRY, (1, 2))
    assert files(tmp_path) == []


def test_what_was_sent_is_noted(entries, tmp_path):
    whole = journal.Whole(3, 'sha512', 'ab')
    with entries.begin(journal_entry.ENTRY) as record:
        assert record.whole is None
        record.note_whole(whole)
        record.progress(3, 3)
        assert record.whole == whole
    assert files(tmp_path) == []


@pytest.mark.parametrize('content', ('', '[]', '{"length": 3}', '7'))
def test_nonsense_is_no_note_of_what_was_sent(content, entries, tmp_path):
    with entries.begin(journal_entry.ENTRY) as record:
        noted, = (tmp_path / 'journal').glob('*.json')
        noted.with_suffix('.whole').write_text(content)
        assert record.whole is None


def test_what_never_became_an_entry_is_removed(entries, tmp_path):
    with entries.begin(journal_entry.ENTRY) as record:
        noted, = (tmp_path / 'journal').glob('*.json')
        record.progress(1, 2)
        stray, kept = noted.with_name('x.new'), noted.with_suffix('.new')
        fresh, writing = noted.with_name('y.new'), noted.with_name(
            noted.stem + '.frozen.new')
        for path in (stray, kept, fresh, writing):
            path.touch()
        for path in (stray, kept, writing):
            os.utime(path, (0, 0))
        assert list(entries.abandoned()) == []
        assert not stray.exists()
        assert kept.exists() and fresh.exists() and writing.exists()
    assert files(tmp_path) == [fresh]


VALUES = {'version': 2, **journal.dataclasses.asdict(journal_entry.ENTRY)}


@pytest.mark.parametrize('content', (
    b'', b'{', b'[]', b'null', b'\xff\xfe', b'{"version": 2}',
    json.dumps(VALUES | {'instance': '../../etc'}).encode(),
    json.dumps(VALUES | {'image': 7}).encode(),
    json.dumps(VALUES | {'visible': 'no'}).encode(),
    json.dumps(VALUES | {'more': 1}).encode()))
def test_nonsense_is_passed_over_shown_and_left(content, entries, tmp_path):
    (tmp_path / 'journal').mkdir()
    (tmp_path / 'journal' / 'x.json').write_bytes(content)
    assert list(entries.abandoned()) == list(entries.running()) == []
    shown, = entries.unusable()
    assert shown.path == tmp_path / 'journal' / 'x.json'
    assert re.search('makes no sense.*then remove it', shown.reason)
    assert len(files(tmp_path)) == 1


@pytest.mark.parametrize('version', (1, 3, '2', None))
def test_entry_of_another_version_is_passed_over_and_left(
        version, entries, tmp_path):
    (tmp_path / 'journal').mkdir()
    (tmp_path / 'journal' / 'x.json').write_text(
        json.dumps(VALUES | {'version': version}))
    assert list(entries.abandoned()) == list(entries.running()) == []
    shown, = entries.unusable()
    assert 'of the version that wrote it' in shown.reason
    assert len(files(tmp_path)) == 1


def test_who_looks_for_unusable_entries_locks_no_other(entries):
    with entries.begin(journal_entry.ENTRY) as record:
        record.keep()
    assert entries.unusable() == []
    found, = entries.abandoned()
    found.close()


def test_directory_that_cannot_be_made(tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(exception.JournalUnusable):
        journal.Journal(str(tmp_path / 'file' / 'x'), 'host').begin(
            journal_entry.ENTRY)


def test_no_directory_is_an_empty_journal(tmp_path):
    found = journal.Journal(str(tmp_path / 'x'), 'host')
    assert list(found.abandoned()) == found.unusable() == []

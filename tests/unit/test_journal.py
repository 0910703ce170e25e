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

import errno
import json
import os
import pathlib
import re
import stat
import subprocess
import sys
from unittest import mock

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


# What keeps an entry


@pytest.mark.parametrize('end', (KeyboardInterrupt, SystemExit,
                                 GeneratorExit))
def test_kept_when_the_process_ends(end, entries):
    with pytest.raises(end), entries.begin(journal_entry.ENTRY):
        raise end
    found, = entries.abandoned()
    found.close()


def test_what_cannot_be_removed_is_kept_and_hides_no_error(entries, caplog):
    with (mock.patch('pathlib.Path.unlink', side_effect=OSError('read-only')),
          pytest.raises(ZeroDivisionError),
          entries.begin(journal_entry.ENTRY) as record):
        raise ZeroDivisionError
    assert record.kept
    assert 'cannot be removed: read-only' in caplog.text


def test_file_is_removed_before_its_companions(entries, tmp_path):
    """A kill in between leaves what nobody believes."""
    with pytest.raises(KeyboardInterrupt):
        with entries.begin(journal_entry.ENTRY) as record:
            record.mark(journal.Mark.FROZEN, 'boot 7')
            record.note_planned(journal.Planned('live'))
            with mock.patch('pathlib.Path.unlink', autospec=True,
                            side_effect=dying_after(1)):
                record.remove()
    assert not list((tmp_path / 'journal').glob('*.json'))
    assert list((tmp_path / 'journal').glob('*.frozen'))
    assert list(entries.abandoned()) == entries.unusable() == []


def dying_after(calls, real=pathlib.Path.unlink):
    left = [calls]

    def unlink(path, missing_ok=False):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        real(path, missing_ok=missing_ok)

    return unlink


def test_companions_without_an_entry_are_removed_later(entries, tmp_path):
    directory = tmp_path / 'journal'
    directory.mkdir()
    for mark in journal.Mark:
        (directory / ('x' + mark)).touch()
        os.utime(directory / ('x' + mark), (0, 0))
    assert list(entries.abandoned()) == []
    assert files(tmp_path) == []


# Notes


def test_mark_stays_until_it_is_removed(entries, tmp_path):
    with entries.begin(journal_entry.ENTRY) as record:
        for mark in journal.Mark:
            assert record.marked(mark) is None
            record.mark(mark, 'boot 7')
            assert record.marked(mark) == 'boot 7'
            record.mark(mark, 'boot 8')
            assert record.marked(mark) == 'boot 8'
            record.unmark(mark)
            record.unmark(mark)
            assert record.marked(mark) is None
    assert files(tmp_path) == []


def test_marks_go_with_the_entry(entries, tmp_path):
    with entries.begin(journal_entry.ENTRY) as record:
        for mark in journal.Mark:
            record.mark(mark)
        record.note_gone()
    assert files(tmp_path) == []


def test_another_process_reads_the_marks(entries):
    with entries.begin(journal_entry.ENTRY) as record:
        record.mark(journal.Mark.SUSPENDED)
        record.keep()
    found, = entries.abandoned()
    with found:
        assert found.marked(journal.Mark.SUSPENDED) == ''
        assert found.marked(journal.Mark.FROZEN) is None


@pytest.mark.parametrize('note', (
    lambda record: record.mark(journal.Mark.FROZEN),
    lambda record: record.unmark(journal.Mark.FROZEN),
    lambda record: record.note_planned(journal.Planned('live')),
    lambda record: record.note_whole(journal.Whole(3, None, None)),
    lambda record: record.note_gone()))
def test_note_that_is_not_durable_is_an_error(note, entries):
    with entries.begin(journal_entry.ENTRY) as record:
        with (mock.patch('os.fsync', side_effect=OSError('disk')),
              pytest.raises(exception.JournalUnusable, match='disk')):
            note(record)


def test_progress_that_cannot_be_noted_is_no_error(entries):
    with entries.begin(journal_entry.ENTRY) as record:
        with mock.patch('builtins.open', side_effect=OSError('disk')):
            record.progress(1, 2)
        assert record.sent() is None


def test_what_is_planned_is_noted(entries):
    planned = journal.Planned('direct', ('rbd://a', 'rbd://b'), 'rbd://c')
    with entries.begin(journal_entry.ENTRY) as record:
        assert record.planned == journal.Planned()
        record.note_planned(planned)
        assert record.planned == planned


@pytest.mark.parametrize('content', ('', '[]', '{}', '7', '{"path": "live"}'))
def test_nonsense_of_what_was_planned_is_an_error(content, entries, tmp_path):
    """Something may have been made: it is not nothing."""
    with entries.begin(journal_entry.ENTRY) as record:
        noted, = (tmp_path / 'journal').glob('*.json')
        noted.with_suffix('.planned').write_text(content)
        with pytest.raises(exception.JournalUnusable):
            assert record.planned


# Entries that are not for us


def left(entries, tmp_path):
    """Leave an entry, and give its file."""
    with entries.begin(journal_entry.ENTRY) as record:
        record.keep()
    path, = (tmp_path / 'journal').glob('*.json')
    return path


def test_entry_of_another_host_is_shown_and_left(entries, tmp_path):
    path = left(entries, tmp_path)
    other = journal.Journal(str(tmp_path / 'journal'), 'compute-2')
    shown, = other.unusable()
    assert shown.path == path
    assert ('of the host compute-1, and this one is compute-2: run '
            '"nova-snapdriver recover" there') in shown.reason
    assert list(other.abandoned()) == list(other.running()) == []
    assert path.exists()


def test_running_entry_of_another_host_is_shown_and_left(entries, tmp_path):
    """Its lock says nothing here, where a file server has none."""
    with entries.begin(journal_entry.ENTRY):
        other = journal.Journal(str(tmp_path / 'journal'), 'compute-2')
        assert len(other.unusable()) == 1
        assert list(other.abandoned()) == list(other.running()) == []


@pytest.mark.parametrize('error', (errno.EBADF, errno.ENOLCK, errno.EIO))
def test_entry_that_cannot_be_locked_is_shown_and_left(error, entries,
                                                       tmp_path):
    path = left(entries, tmp_path)
    with mock.patch('fcntl.flock', side_effect=OSError(
            error, os.strerror(error))):
        shown, = entries.unusable()
        assert list(entries.abandoned()) == list(entries.running()) == []
    assert shown.path == path
    assert os.strerror(error) in shown.reason
    assert 'journal_directory' in shown.reason


@pytest.mark.parametrize('error', (errno.EBADF, errno.ENOLCK))
def test_nothing_is_begun_without_locks(error, entries, tmp_path):
    with (mock.patch('fcntl.flock', side_effect=OSError(error, 'no locks')),
          pytest.raises(exception.JournalUnusable, match='no locks')):
        entries.begin(journal_entry.ENTRY)
    assert files(tmp_path) == []


@pytest.mark.parametrize('error', (errno.EACCES, errno.EROFS, errno.ESTALE))
def test_entry_that_cannot_be_opened_is_shown_and_left(error, entries,
                                                       tmp_path):
    path = left(entries, tmp_path)
    real = os.open

    def refuse(name, *args, **kwargs):
        if str(name).endswith('.json'):
            raise OSError(error, os.strerror(error))
        return real(name, *args, **kwargs)

    with mock.patch('os.open', refuse):
        shown, = entries.unusable()
        assert list(entries.abandoned()) == list(entries.running()) == []
    assert shown.path == path
    assert 'cannot be opened' in shown.reason
    assert 'the user of nova-compute' in shown.reason
    assert path.exists()


def test_half_written_entry_is_shown_and_left(entries, tmp_path):
    path = left(entries, tmp_path)
    path.write_bytes(path.read_bytes()[:40])
    shown, = entries.unusable()
    assert 'makes no sense' in shown.reason
    assert list(entries.abandoned()) == []
    assert path.exists()


def test_unusable_entry_hides_no_other(entries, tmp_path):
    left(entries, tmp_path)
    for name in ('0.json', 'z.json'):
        (tmp_path / 'journal' / name).write_text('{')
    found, = entries.abandoned()
    found.close()
    assert len(entries.unusable()) == 2


@pytest.mark.parametrize('error', (PermissionError('no'), OSError(5, 'I/O')))
def test_directory_that_cannot_be_read_is_an_error(error, entries):
    with mock.patch('os.listdir', side_effect=error):
        for look in (entries.unusable, lambda: list(entries.running()),
                     lambda: list(entries.abandoned())):
            with pytest.raises(exception.JournalUnusable):
                look()


def test_entry_that_is_only_looked_at_is_abandoned_all_the_same(entries):
    """"list" locks it for a moment, just when a recovery comes by."""
    entries.begin(journal_entry.ENTRY).close()
    looking = entries.abandoned()
    look = next(looking)
    with mock.patch('time.sleep', side_effect=lambda seconds: look.close()):
        found, = entries.abandoned()
    found.close()

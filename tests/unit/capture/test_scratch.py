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

"""The guard of the scratch file, with a guest that QEMU stops."""

import os
import threading
import time
from unittest import mock

import pytest

from nova_snapdriver.capture import readahead
from nova_snapdriver.capture import request as capture_request
from nova_snapdriver.capture import scratch
from nova_snapdriver.capture import space
from nova_snapdriver.capture import workspace
from nova_snapdriver import exception
from nova_snapdriver import guest as snap_guest
from nova_snapdriver import journal
from nova_snapdriver import metrics
from tests.unit import notes as capture_notes

PAUSED = journal.Mark.PAUSED
NO_LIMITS = space.Limits(0, 0)
ALL = 1 << 60
SECONDS = 20


@pytest.fixture
def place(tmp_path):
    found = workspace.locate(str(tmp_path))
    with workspace.private(found, None, pytest.fail):
        yield found


@pytest.fixture
def notes():
    return capture_notes.Notes()


@pytest.fixture
def guarded(place, notes):
    def call(guest, end_job, limits=NO_LIMITS, ahead=None):
        request = mock.create_autospec(capture_request.Request, instance=True)
        request.guest, request.place = guest.fake, place
        request.limits, request.notes = limits, notes
        request.meter = metrics.Meter()
        return scratch.guarded(request, end_job, ahead)
    return call


class StoppingGuest:
    """Is stopped by an error from some call of the guard's on."""

    def __init__(self, after):
        self.calls, self.after = 0, after
        self.fake = mock.create_autospec(snap_guest.Guest, instance=True)
        self.fake.stopped_by_io_error.side_effect = self._stopped
        self.fake.resume.side_effect = self._resumed
        self.fake.instance = None
        self.fake.run_id.return_value = 'boot 7'
        self.resumed = threading.Event()

    def _stopped(self):
        self.calls += 1
        return self.calls > self.after and not self.resumed.is_set()

    def _resumed(self):
        self.resumed.set()


@pytest.fixture(autouse=True)
def quick():
    with mock.patch.object(scratch, '_POLL_SECONDS', 0.01):
        yield


def test_guest_that_qemu_stops_goes_on_at_once(guarded, notes):
    guest, end_job = StoppingGuest(after=3), mock.Mock()
    with pytest.raises(exception.ScratchExhausted, match='stopped the guest'):
        with guarded(guest, end_job):
            assert guest.resumed.wait(SECONDS)
            end_job.assert_called_once_with()
            raise exception.StreamFailed(reason='the export vanished')
    assert notes.steps == [(PAUSED, True), (PAUSED, False)]


def test_guest_is_resumed_even_if_the_job_does_not_end(guarded):
    guest = StoppingGuest(after=1)
    end_job = mock.Mock(side_effect=exception.CaptureFailed(reason='no'))
    with pytest.raises(exception.ScratchExhausted):
        with guarded(guest, end_job):
            assert guest.resumed.wait(SECONDS)
            raise exception.StreamFailed(reason='the export vanished')


def test_guest_that_stopped_in_the_last_moment_goes_on(guarded):
    guest = StoppingGuest(after=ALL)
    with guarded(guest, mock.Mock()):
        with mock.patch.object(scratch, '_POLL_SECONDS', SECONDS):
            guest.after = 0
    assert guest.resumed.is_set()


def test_pause_is_noted_before_the_job_ends_whatever_ends_it(guarded, notes):
    guest = StoppingGuest(after=ALL)
    with guarded(guest, mock.Mock()) as guard:
        with mock.patch.object(scratch, '_POLL_SECONDS', SECONDS):
            with guard.noted():
                guest.after = 0
            assert notes.marks == {PAUSED: 'boot 7'}
    assert guest.resumed.is_set() and notes.marks == {}


def test_guest_that_cannot_be_resumed_is_left_to_a_recovery(guarded, notes):
    guest = StoppingGuest(after=ALL)
    guest.fake.resume.side_effect = exception.CaptureFailed(reason='no')
    with guarded(guest, mock.Mock()):
        with mock.patch.object(scratch, '_POLL_SECONDS', SECONDS):
            guest.after = 0
    assert notes.kept and notes.marks == {PAUSED: 'boot 7'}


def test_journal_without_space_does_not_keep_the_guest(guarded, notes):
    guest, end_job = StoppingGuest(after=1), mock.Mock()
    notes.mark = mock.Mock(side_effect=exception.JournalUnusable(reason='no'))
    with pytest.raises(exception.ScratchExhausted):
        with guarded(guest, end_job):
            assert guest.resumed.wait(SECONDS)
            raise exception.StreamFailed(reason='the export vanished')
    end_job.assert_called_once_with()


def test_guest_that_stood_still_before_is_left_alone(guarded, notes):
    guest, end_job = StoppingGuest(after=0), mock.Mock()
    with guarded(guest, end_job):
        pass
    end_job.assert_not_called()
    assert notes.steps == []
    assert not guest.resumed.is_set()


@pytest.mark.parametrize('limits, option', (
    (space.Limits(ALL, 0), 'scratch_reserve'),
    (space.Limits(0, 4096), 'scratch_limit')))
def test_limit_is_kept_and_named(limits, option, place, guarded):
    ended = threading.Event()
    with open(place.scratch, 'wb') as file:
        file.write(bytes(1 << 20))
    with pytest.raises(exception.ScratchExhausted, match=option):
        with guarded(StoppingGuest(ALL), ended.set, limits):
            assert ended.wait(SECONDS)
            raise exception.StreamFailed(reason='the export vanished')


def test_file_that_is_read_ahead_counts(place, reading, guarded):
    """It has no name, and the directory does not show it."""
    ended = threading.Event()
    with mock.patch.object(reading, 'allocated', return_value=2 << 20):
        with pytest.raises(exception.ScratchExhausted, match='scratch_limit'):
            with guarded(StoppingGuest(ALL), ended.set,
                         space.Limits(0, 1 << 20), reading):
                assert ended.wait(SECONDS)
                raise exception.StreamFailed(reason='the export vanished')


class Others:
    """Another capture that watches, and uses so much."""

    def __init__(self, used):
        self.used = used


@pytest.mark.parametrize('used, free, ends', (
    (9 << 20, 600, False),      # another one uses more, and ends first
    (1 << 10, 600, True),
    (9 << 20, 400, True)))      # half of the reserve is gone: at once
def test_snapshot_that_uses_most_ends_first(used, free, ends, place, guarded,
                                            monkeypatch):
    monkeypatch.setattr(scratch, '_watching', {Others(used)})
    monkeypatch.setattr(space, 'free', lambda directory: free)
    with open(place.scratch, 'wb') as file:
        file.write(bytes(1 << 20))
    ended = threading.Event()
    try:
        with guarded(StoppingGuest(ALL), ended.set, space.Limits(1000, 0)):
            assert ended.wait(SECONDS if ends else 0.3) is ends
            raise exception.StreamFailed(reason='the export vanished')
    except (exception.ScratchExhausted, exception.StreamFailed) as ex:
        assert isinstance(ex, exception.ScratchExhausted) is ends


def test_upload_that_was_complete_already_counts(guarded):
    ended = threading.Event()
    with guarded(StoppingGuest(ALL), ended.set, space.Limits(ALL, 0)):
        assert ended.wait(SECONDS)


def test_other_errors_stay_what_they_are(guarded):
    with pytest.raises(exception.UploadFailed):
        with guarded(StoppingGuest(ALL), mock.Mock()):
            raise exception.UploadFailed(reason='no')


def test_guard_outlives_an_error_of_its_own(guarded):
    guest, end_job = StoppingGuest(after=ALL), threading.Event()
    answers = [False, RuntimeError('libvirt is away'), True]
    guest.fake.stopped_by_io_error.side_effect = lambda: _next(answers)
    with pytest.raises(exception.ScratchExhausted):
        with guarded(guest, end_job.set):
            assert end_job.wait(SECONDS)
            raise exception.StreamFailed(reason='the export vanished')


def _next(answers):
    answer = answers.pop(0) if len(answers) > 1 else answers[0]
    if isinstance(answer, Exception):
        raise answer
    return answer


def fill(place, length):
    with open(place.scratch, 'wb') as file:
        file.write(bytes(length))


@pytest.fixture
def reading(place):
    """A disk that is being read, by the process with the number 7."""
    with readahead.ReadAhead(readahead.Spool(place.path, -1, 0)) as made:
        made.begin()
        made.begun(7)
        yield made


def test_job_ends_when_the_disk_has_been_read(place, reading, guarded):
    guest, ended = StoppingGuest(ALL), threading.Event()
    fill(place, 1 << 20)
    with guarded(guest, ended.set, space.Limits(0, 0, 1 << 19), reading):
        assert os.read(reading.input, 1)
        assert not ended.wait(0.1)
        os.write(reading.inherited[0], b'7\n')
        assert ended.wait(SECONDS)
    assert reading.ended


def test_job_that_does_not_end_at_once_is_tried_again(place, reading,
                                                      guarded):
    guest, ended = StoppingGuest(ALL), threading.Event()
    end_job = mock.Mock(side_effect=[exception.CaptureFailed(reason='no'),
                                     ended.set])
    fill(place, 1 << 20)
    os.write(reading.inherited[0], b'7\n')
    with guarded(guest, lambda: end_job()(), space.Limits(0, 0, 1 << 19),
                 reading):
        assert ended.wait(SECONDS)


def test_job_of_a_guest_that_writes_little_stays(reading, guarded):
    end_job = mock.Mock()
    os.write(reading.inherited[0], b'7\n')
    with guarded(StoppingGuest(ALL), end_job, ahead=reading):
        time.sleep(0.1)
    assert not reading.ordered
    end_job.assert_not_called()


@pytest.mark.parametrize('limits, used, expected', (
    (space.Limits(0, 0), 100, 275), (space.Limits(400, 0), 100, 175),
    (space.Limits(2000, 0), 100, 25), (space.Limits(0, 600), 100, 150),
    (space.Limits(0, 600), 700, 175), (space.Limits(0, 600, 80), 0, 80),
    (space.Limits(0, 600, 800), 0, 150)))
def test_what_is_bearable(limits, used, expected, place):
    with mock.patch.object(space, 'free', return_value=1000):
        assert scratch._bearable(used, place.path, limits) == expected


def test_what_was_used_last_is_noted(place):
    meter = metrics.Meter()
    with scratch.measured(place, meter):
        with open(place.scratch, 'wb') as file:
            file.write(b'x' * 8192)
            os.fsync(file.fileno())
    assert meter.scratch_peak >= 8192


def test_directory_that_is_gone_is_no_error(place):
    with scratch.measured(place, metrics.Meter()):
        os.rename(place.path, place.path + '-gone')
    os.rename(place.path + '-gone', place.path)

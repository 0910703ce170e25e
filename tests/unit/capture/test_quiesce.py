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

import contextlib
import threading
from unittest import mock

import pytest

from nova_snapdriver.capture import export
from nova_snapdriver.capture import quiesce
from nova_snapdriver import exception
from nova_snapdriver import guest as snap_guest
from nova_snapdriver import journal
from tests.unit import notes as capture_notes

pytestmark = pytest.mark.usefixtures('no_pauses')

FROZEN = journal.Mark.FROZEN


@pytest.fixture
def frozen(guest, notes):
    def call(wanted=True, required=False, freeze_timeout=0):
        return quiesce.frozen(guest, quiesce.Settings(
            5, wanted, required, freeze_timeout), notes)
    return call


def test_frozen_and_thawed(guest, frozen):
    with frozen() as quiesced:
        assert quiesced.consistency is export.Consistency.FILESYSTEM
        guest.thaw.assert_not_called()
    assert quiesced.consistency is export.Consistency.FILESYSTEM
    guest.set_agent_timeout.assert_called_with(5)
    guest.thaw.assert_called_once_with()
    guest.reset_agent_timeout.assert_called_once_with()


def test_thawed_whatever_happens_in_between(guest, frozen):
    with pytest.raises(ZeroDivisionError), frozen():
        raise ZeroDivisionError
    guest.thaw.assert_called_once_with()


def test_not_asked_for(guest, frozen, notes):
    with frozen(wanted=False) as quiesced:
        assert quiesced.consistency is export.Consistency.CRASH
    guest.freeze.assert_not_called()
    guest.thaw.assert_not_called()
    assert notes.steps == []


def fail_freeze(guest):
    guest.freeze.side_effect = snap_guest.AgentError('too slow')


def find_nothing(guest):
    guest.freeze.return_value = 0


def refuse(guest):
    guest.agent_refusal.return_value = 'no agent runs in the guest'


@pytest.mark.parametrize('trouble, thaws', (
    (fail_freeze, 1), (find_nothing, 1), (refuse, 0)))
def test_trouble_makes_it_crash_consistent(trouble, thaws, guest, frozen,
                                           notes):
    trouble(guest)
    with frozen() as quiesced:
        assert quiesced.consistency is export.Consistency.CRASH
        # Thawed before the capture, not after it.
        assert guest.thaw.call_count == thaws
        assert not notes.marks and not notes.kept


@pytest.mark.parametrize('trouble', (fail_freeze, find_nothing, refuse))
def test_trouble_is_an_error_where_it_is_required(trouble, guest, frozen):
    trouble(guest)
    with pytest.raises(exception.QuiesceFailed), frozen(required=True):
        raise AssertionError('captured')


def test_required_without_the_agent_property(frozen):
    with pytest.raises(exception.QuiesceFailed, match='hw_qemu_guest_agent'):
        with frozen(wanted=False, required=True):
            raise AssertionError('captured')


def test_agent_that_was_not_asked_to_freeze_is_not_asked_to_thaw(
        guest, frozen, notes):
    guest.set_agent_timeout.side_effect = snap_guest.AgentError('no answer')
    with frozen() as quiesced:
        assert quiesced.consistency is export.Consistency.CRASH
    guest.thaw.assert_not_called()
    guest.reset_agent_timeout.assert_called_once_with()
    assert notes.steps == []


def test_freeze_of_another_is_not_thawed(guest, frozen, notes):
    """The agent refuses to freeze a guest that is frozen."""
    guest.freeze.side_effect = snap_guest.FreezeUnsupported('frozen state')
    with frozen() as quiesced:
        assert quiesced.consistency is export.Consistency.CRASH
    guest.thaw.assert_not_called()
    guest.reset_agent_timeout.assert_called_once_with()
    assert notes.marks == {} and not notes.kept


def test_freeze_that_is_interrupted_is_thawed(guest, frozen):
    guest.freeze.side_effect = KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt), frozen():
        raise AssertionError('captured')
    guest.thaw.assert_called_once_with()


def test_thaw_is_tried_again(guest, frozen):
    guest.thaw.side_effect = [snap_guest.AgentError('busy'), 1]
    with frozen():
        pass
    assert guest.thaw.call_count == 2


def test_thaw_that_does_not_work_is_told_and_left_to_a_recovery(
        guest, frozen, notes):
    guest.thaw.side_effect = snap_guest.AgentError('hangs')
    with pytest.raises(exception.ThawFailed, match='domfsthaw instance-1'):
        with frozen():
            pass
    guest.reset_agent_timeout.assert_called_with()
    assert notes.kept
    assert notes.marks == {FROZEN: 'boot 7'}


def test_a_freeze_that_may_come_late_is_left_to_a_recovery(guest, frozen,
                                                           notes):
    fail_freeze(guest)
    guest.thaw.side_effect = snap_guest.AgentError('hangs')
    with frozen() as quiesced:
        assert quiesced.consistency is export.Consistency.CRASH
    assert notes.kept
    assert notes.marks == {FROZEN: 'boot 7'}


def test_guest_that_is_gone_needs_no_thaw(guest, frozen):
    guest.thaw.side_effect = snap_guest.GuestGone('destroyed')
    with frozen():
        pass
    guest.thaw.assert_called_once_with()


def test_guest_that_stays_frozen_for_too_long_is_thawed(guest, frozen):
    thawed = threading.Event()
    guest.thaw.side_effect = thawed.set
    with pytest.raises(exception.CaptureFailed, match='freeze_timeout'):
        with frozen(freeze_timeout=1):
            assert thawed.wait(30)
    # The agent is asked again at the end, as the first thaw may have failed.
    assert guest.thaw.call_count == 2


def test_an_error_of_the_capture_is_the_one_to_see(guest, frozen):
    thawed = threading.Event()
    guest.thaw.side_effect = thawed.set
    with pytest.raises(ZeroDivisionError):
        with frozen(freeze_timeout=1):
            assert thawed.wait(30)
            raise ZeroDivisionError


@pytest.mark.parametrize('error', (
    snap_guest.AgentError('hangs'), ZeroDivisionError))
def test_the_first_error_is_raised_where_the_thaw_fails_too(error, guest,
                                                            frozen, notes):
    guest.thaw.side_effect = error
    with pytest.raises(KeyError), frozen():
        raise KeyError
    assert notes.kept and FROZEN in notes.marks


def test_the_first_error_is_raised_where_the_journal_fails_too(guest, frozen,
                                                               notes):
    notes.unmark = mock.Mock(
        side_effect=exception.JournalUnusable(reason='full'))
    with pytest.raises(KeyError), frozen():
        raise KeyError
    guest.thaw.assert_called_once_with()


def test_freeze_that_had_lapsed_is_no_freeze(guest, frozen, notes):
    guest.thaw.return_value = 0
    with frozen() as quiesced:
        pass
    assert quiesced.consistency is export.Consistency.CRASH
    assert notes.marks == {} and not notes.kept


def test_freeze_that_had_lapsed_is_an_error_where_it_is_required(guest,
                                                                 frozen):
    guest.thaw.return_value = 0
    with pytest.raises(exception.QuiesceFailed, match='before the thaw'):
        with frozen(required=True):
            pass


@pytest.mark.parametrize('outcomes', (
    [None], [snap_guest.AgentError('late'), 0], [snap_guest.AgentError, None]))
def test_answer_that_was_lost_is_no_lapse(outcomes, guest, frozen):
    guest.thaw.side_effect = outcomes
    with frozen() as quiesced:
        pass
    assert quiesced.consistency is export.Consistency.FILESYSTEM


def test_freeze_is_noted_before_it_is_asked_for(guest, frozen, notes):
    guest.freeze.side_effect = lambda: len(notes.marks)
    guest.thaw.side_effect = lambda: len(notes.marks)
    with frozen() as quiesced:
        assert notes.marks == {FROZEN: 'boot 7'}
    assert quiesced.consistency is export.Consistency.FILESYSTEM
    assert notes.steps == [(FROZEN, True), (FROZEN, False)]


def test_agent_without_a_thaw_is_told_and_asked_once(guest, frozen, notes):
    guest.thaw.side_effect = snap_guest.FreezeUnsupported('disabled')
    with pytest.raises(exception.ThawUnsupported, match='guest-fsfreeze-thaw'):
        with frozen():
            pass
    guest.thaw.assert_called_once_with()
    assert notes.kept


def test_guest_that_is_thawed_in_time_is_left_alone(guest, frozen):
    with frozen(freeze_timeout=60):
        pass
    guest.thaw.assert_called_once_with()
    assert not any(isinstance(one, threading.Timer)
                   for one in threading.enumerate())


class Libvirtd:
    """Serves five calls at a time, and counts those that wait for agents."""

    def __init__(self):
        self._lock = threading.Lock()
        self.waiting = self.most = 0
        self.both = threading.Event()
        self.answer = threading.Event()
        self.threads = []

    def end(self):
        self.answer.set()
        for thread in self.threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in self.threads)

    def hang(self):
        with self._lock:
            self.waiting += 1
            self.most = max(self.most, self.waiting)
            if self.waiting == 2:
                self.both.set()
        assert self.answer.wait(60)
        with self._lock:
            self.waiting -= 1
        raise snap_guest.AgentError('hangs')


@pytest.fixture
def hanging():
    """Six guests whose agents hang in a freeze, each in a thread."""
    libvirtd = Libvirtd()

    def snapshot(name):
        guest = mock.create_autospec(snap_guest.Guest, instance=True)
        guest.instance, guest.name = None, name
        guest.agent_refusal.return_value = None
        guest.run_id.return_value = 'boot 7'
        guest.freeze.side_effect = guest.thaw.side_effect = libvirtd.hang
        with quiesce.frozen(guest, quiesce.Settings(5, True, False),
                            capture_notes.Notes()):
            pass

    libvirtd.threads = [
        threading.Thread(target=snapshot, args=('hangs-%d' % number,))
        for number in range(6)]
    for thread in libvirtd.threads:
        thread.start()
    try:
        assert libvirtd.both.wait(60)
        yield libvirtd
    finally:
        libvirtd.end()


def test_agents_that_hang_leave_libvirt_to_other_servers(hanging):
    hanging.end()
    assert hanging.most == 2


def test_frozen_guest_is_thawed_while_other_agents_hang(hanging, guest,
                                                        notes):
    """It was frozen before the others took all the turns."""
    settings = quiesce.Settings(5, True, False)
    with contextlib.ExitStack() as thawing:
        with mock.patch.object(quiesce, '_MAY_HANG'):
            quiesced = thawing.enter_context(
                quiesce.frozen(guest, settings, notes))
    assert hanging.waiting == 2 and notes.marks == {}
    assert quiesced.consistency is export.Consistency.FILESYSTEM

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

"""A guest that is resumed while its save may still be running."""

from unittest import mock

from nova import exception as nova_exception
import pytest

from nova_snapdriver.capture import suspend
from nova_snapdriver import exception
from nova_snapdriver import journal

pytestmark = pytest.mark.usefixtures('no_pauses')

FROZEN, SUSPENDED, DETACHED, _ = journal.Mark


@pytest.fixture
def guest(guest):
    guest.exists.return_value = False
    guest.is_saved.return_value = True
    return guest


@pytest.fixture
def power():
    return suspend.Power(*(mock.Mock() for _ in range(3)))


def test_saved_guest_is_started(guest):
    launch = mock.Mock()
    assert suspend.bring_back(guest, launch) is True
    launch.assert_called_once_with()
    guest.abort_job.assert_not_called()


def test_guest_that_was_shut_off_stays_so(guest):
    guest.is_saved.return_value = False
    assert suspend.bring_back(guest, pytest.fail) is False


def test_running_guest_is_left_alone(guest):
    guest.exists.return_value = True
    guest.is_being_saved.return_value = False
    assert suspend.bring_back(guest, pytest.fail) is False
    guest.abort_job.assert_not_called()


def test_guest_is_not_taken_to_run_where_libvirt_does_not_answer(guest):
    guest.exists.side_effect = exception.CaptureFailed(reason='no answer')
    with pytest.raises(exception.CaptureFailed, match='no answer'):
        suspend.bring_back(guest, pytest.fail)


def test_save_that_runs_is_aborted(guest):
    guest.exists.return_value = True
    guest.is_being_saved.side_effect = [True, True, False]
    assert suspend.bring_back(guest, pytest.fail) is True
    assert guest.abort_job.call_count == 2


def test_save_that_ends_before_it_is_aborted(guest):
    guest.exists.side_effect = [True, False, False]
    guest.is_being_saved.return_value = True
    launch = mock.Mock()
    assert suspend.bring_back(guest, launch) is True
    launch.assert_called_once_with()


def test_save_that_does_not_end_is_an_error(guest):
    guest.exists.return_value = True
    guest.is_being_saved.return_value = True
    with (mock.patch.object(suspend, '_SAVE_SECONDS', 0),
          pytest.raises(exception.CaptureFailed, match='still being saved')):
        suspend.bring_back(guest, pytest.fail)


def capture(guest, power, notes):
    with suspend.suspended(guest, power, notes):
        pass


def test_start_is_tried_again(guest, power, notes):
    power.launch.side_effect = [nova_exception.NovaException('no'), None]
    capture(guest, power, notes)
    assert power.launch.call_count == 2
    assert notes.steps == [(DETACHED, True), (SUSPENDED, True),
                           (SUSPENDED, False), (DETACHED, False)]
    assert not notes.kept
    power.attach.assert_called_once_with()


def test_guest_that_does_not_start_is_left_to_a_recovery(guest, power, notes):
    power.launch.side_effect = nova_exception.NovaException('no memory')
    with pytest.raises(exception.ResumeFailed, match='no memory.*virsh start'):
        capture(guest, power, notes)
    assert notes.kept
    assert notes.steps == [(DETACHED, True), (SUSPENDED, True)]


def test_guest_that_was_deleted_is_not_tried_again(guest, power, notes):
    guest.exists.side_effect = [False, nova_exception.InstanceNotFound(
        instance_id='server')]
    with pytest.raises(nova_exception.InstanceNotFound):
        capture(guest, power, notes)
    assert not notes.kept


def test_it_is_noted_before_it_is_done(guest, power, notes):
    def suspend_it():
        assert notes.marks == {DETACHED: '', SUSPENDED: ''}

    power.suspend.side_effect = suspend_it
    with suspend.suspended(guest, power, notes):
        assert notes.marks == {DETACHED: '', SUSPENDED: ''}
    assert notes.marks == {}


def test_guest_that_cannot_be_noted_is_not_suspended(guest, power, notes):
    notes.mark = mock.Mock(side_effect=exception.JournalUnusable(reason='no'))
    with pytest.raises(exception.JournalUnusable):
        capture(guest, power, notes)
    power.suspend.assert_not_called()


def test_freeze_goes_on_in_another_run(guest, power, notes):
    """That one is noted before the guest counts as started."""
    notes.mark(FROZEN, 'boot 7')
    guest.run_id.return_value = 'boot 8'
    capture(guest, power, notes)
    assert notes.marks == {FROZEN: 'boot 8'}
    assert notes.steps[-3:] == [(FROZEN, True), (SUSPENDED, False),
                                (DETACHED, False)]


def test_guest_that_is_not_frozen_is_not_noted_as_frozen(guest, power, notes):
    capture(guest, power, notes)
    assert FROZEN not in dict(notes.steps)


def test_the_first_error_is_raised_where_the_guest_does_not_start_either(
        guest, power, notes):
    power.launch.side_effect = nova_exception.NovaException('no memory')
    with pytest.raises(KeyError), suspend.suspended(guest, power, notes):
        raise KeyError
    assert notes.kept


@pytest.mark.parametrize('error', (KeyError, KeyboardInterrupt, SystemExit))
def test_guest_is_resumed_whatever_happens(error, guest, power, notes):
    with pytest.raises(error), suspend.suspended(guest, power, notes):
        raise error
    power.launch.assert_called_once_with()
    power.attach.assert_called_once_with()
    assert not notes.kept and notes.marks == {}


def test_guest_that_cannot_be_suspended_goes_on(guest, power, notes):
    guest.exists.return_value = True
    guest.is_being_saved.return_value = False
    power.suspend.side_effect = nova_exception.NovaException('busy')
    with pytest.raises(exception.CaptureFailed, match='busy'):
        capture(guest, power, notes)
    power.launch.assert_not_called()
    assert notes.marks == {} and not notes.kept


def test_guest_that_another_client_has_started_is_not_copied(guest, power,
                                                             notes):
    guest.exists.return_value = True
    guest.is_being_saved.return_value = False
    with (pytest.raises(exception.CaptureFailed, match='started again'),
          suspend.suspended(guest, power, notes)):
        pytest.fail('copied')


def test_devices_are_noted_until_they_are_back(guest, power, notes):
    def attach():
        assert notes.marks == {DETACHED: ''}
        raise SystemExit

    power.attach.side_effect = attach
    with pytest.raises(SystemExit):
        capture(guest, power, notes)
    assert notes.marks == {DETACHED: ''}


def test_guest_without_all_of_its_devices_is_told(guest, power, notes):
    power.attach.side_effect = nova_exception.NovaException('vf')
    with pytest.raises(exception.DevicesMissing, match='hard reboot'):
        capture(guest, power, notes)
    assert notes.marks == {}


def test_devices_that_a_running_guest_still_has_are_no_error(guest, power,
                                                             notes):
    """It was not suspended, and that error is the one to see."""
    guest.exists.return_value = True
    guest.is_being_saved.return_value = False
    power.suspend.side_effect = nova_exception.NovaException('busy')
    power.attach.side_effect = nova_exception.NovaException('has it')
    with pytest.raises(exception.CaptureFailed, match='busy'):
        capture(guest, power, notes)

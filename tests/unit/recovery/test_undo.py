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

import dataclasses
from unittest import mock

import pytest

from nova_snapdriver.capture import job as capture_job
from nova_snapdriver import database
from nova_snapdriver import exception
from nova_snapdriver import guest as snap_guest
from nova_snapdriver import journal
from nova_snapdriver.recovery import images
from nova_snapdriver.recovery import undo
from tests.unit import journal_entry

RUN = 'boot 7'


@pytest.fixture
def guest():
    found = mock.create_autospec(snap_guest.Guest, instance=True)
    found.name = 'instance-1'
    found.instance = None
    found.copied_disk.return_value = None
    found.exists.return_value = True
    found.agent_refusal.return_value = None
    found.stopped_by_io_error.return_value = False
    found.run_id.return_value = RUN
    found.thaw.return_value = 1
    with mock.patch.object(snap_guest, 'Guest', autospec=True,
                           return_value=found):
        yield found


@pytest.fixture
def job():
    found = mock.create_autospec(capture_job.BackupJob, instance=True)
    found.runs.return_value = True
    with mock.patch.object(capture_job, 'BackupJob', autospec=True,
                           return_value=found):
        yield found


@pytest.fixture
def recover(tmp_path):
    abandoned = journal.Journal(str(tmp_path), journal_entry.HOST)
    entry = dataclasses.replace(
        journal_entry.ENTRY, workspace=str(tmp_path / 'snapdriver-01234567'))

    def call(delete_image=None, marks=(journal.Mark.FROZEN,), **changes):
        with abandoned.begin(dataclasses.replace(entry, **changes)) as record:
            for mark in marks:
                record.mark(mark, RUN)
            record.keep()
        with (mock.patch.object(
                images, 'delete_unfinished', delete_image or mock.Mock(
                    return_value=False)),
              mock.patch.object(database, 'why_not_here', return_value=None),
              mock.patch.object(database, 'why_not_running',
                                return_value=None)):
            outcome, = undo.Recovery(undo.Tools(
                mock.Mock(), pytest.fail, agent_timeout=5)).run(abandoned)
        assert bool(list(tmp_path.iterdir())) == bool(outcome.failed)
        return outcome
    return call


def test_job_is_ended_before_the_thaw(recover, guest, job):
    outcome = recover()
    job.end.assert_called_once_with()
    guest.thaw.assert_called_once_with()
    guest.resume.assert_not_called()
    assert outcome.done == ('ended its backup job', 'thawed the guest')


def test_guest_that_our_scratch_has_stopped_goes_on(recover, guest, job):
    guest.stopped_by_io_error.return_value = True
    assert 'resumed the guest' in recover().done
    guest.resume.assert_called_once_with()


def test_guest_that_another_error_has_stopped_stays(recover, guest, job):
    guest.stopped_by_io_error.return_value = True
    job.runs.return_value = False
    recover()
    job.end.assert_not_called()
    guest.resume.assert_not_called()


def test_nothing_to_thaw(recover, guest, job):
    recover(marks=())
    guest.thaw.assert_not_called()


def test_thaw_waits_for_the_agent_and_is_kept_without_it(recover, guest, job):
    guest.agent_refusal.return_value = 'no agent runs in the guest'
    with mock.patch.object(undo, '_AGENT_SECONDS', 0), mock.patch(
            'time.sleep'):
        outcome = recover()
    guest.thaw.assert_not_called()
    assert 'no agent runs in the guest' in outcome.failed[0]
    assert outcome.guest_waits


@pytest.mark.parametrize('error', (
    exception.CaptureFailed(reason='libvirt is busy'), ZeroDivisionError()))
def test_step_that_fails_keeps_no_other(error, recover, guest, job):
    job.end.side_effect = error
    delete_image = mock.Mock(return_value=True)
    outcome = recover(delete_image)
    assert len(outcome.failed) == 1
    # Least of all the thaw.
    guest.thaw.assert_called_once_with()
    delete_image.assert_called_once()


@pytest.mark.parametrize('workspace', (
    '/', '/etc', 'snapdriver-01234567', '/a/../snapdriver-01234567',
    '/tmp/snapdriver-01234567/..', '/tmp/other', ''))
def test_directory_that_is_none_of_ours_is_not_removed(workspace, recover,
                                                       guest, job):
    with mock.patch('shutil.rmtree') as rmtree:
        outcome = recover(workspace=workspace)
    rmtree.assert_not_called()
    assert 'no directory of a snapshot' in outcome.failed[0]

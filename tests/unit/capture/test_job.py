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

from unittest import mock

import pytest

from nova_snapdriver.capture import job
from nova_snapdriver import exception

pytestmark = pytest.mark.usefixtures('no_pauses')

SOCKET = '/scratch/nbd'


def test_job_is_aborted_and_its_end_awaited(guest):
    guest.backup_socket.side_effect = [SOCKET, SOCKET, SOCKET, None]
    job.BackupJob(guest, SOCKET).end()
    guest.abort_job.assert_called_once_with()
    assert guest.backup_socket.call_count == 4


@pytest.mark.parametrize('other', (None, '', '/other/nbd'))
def test_job_of_another_client_is_left_alone(other, guest):
    guest.backup_socket.return_value = other
    job.BackupJob(guest, SOCKET).end()
    guest.abort_job.assert_not_called()


def test_job_that_does_not_end_is_told(guest, caplog):
    guest.backup_socket.return_value = SOCKET
    on_leftover = mock.Mock()
    with (mock.patch.object(job, '_END_SECONDS', 0),
          job.BackupJob(guest, SOCKET, on_leftover)):
        pass
    on_leftover.assert_called_once_with()
    assert 'domjobabort inst' in caplog.text
    with (mock.patch.object(job, '_END_SECONDS', 0),
          pytest.raises(exception.CaptureFailed, match='domjobabort inst')):
        job.BackupJob(guest, SOCKET).end()


@pytest.mark.parametrize('error', (
    exception.CaptureFailed(reason='no answer'), ZeroDivisionError('bug')))
def test_release_never_raises(error, guest, caplog):
    """What the snapshot came to, stands; a recovery ends the job."""
    guest.backup_socket.side_effect = error
    on_leftover = mock.Mock()
    with job.BackupJob(guest, SOCKET, on_leftover):
        pass
    on_leftover.assert_called_once_with()
    assert str(error) in caplog.text


def test_release_hides_no_error(guest):
    guest.backup_socket.side_effect = exception.CaptureFailed(reason='no')
    with pytest.raises(KeyError), job.BackupJob(guest, SOCKET):
        raise KeyError


def test_job_that_has_ended_is_no_leftover(guest):
    guest.backup_socket.return_value = None
    with job.BackupJob(guest, SOCKET, pytest.fail):
        pass
    guest.abort_job.assert_not_called()


def test_block_copy_is_aborted_by_its_disk(guest):
    guest.copied_disk.side_effect = ['vda', 'vda', None]
    job.BlockCopy(guest, '/scratch/overlay').end()
    guest.end_copy.assert_called_once_with('vda')


def test_block_copy_of_another_client_is_left_alone(guest):
    guest.copied_disk.return_value = None
    job.BlockCopy(guest, '/scratch/overlay').end()
    guest.end_copy.assert_not_called()
    guest.copied_disk.assert_called_with('/scratch/overlay')


def test_domain_with_another_job_is_refused(guest):
    guest.has_job.return_value = True
    with pytest.raises(exception.CaptureFailed, match='another job'):
        job.refuse_others(guest)
    guest.has_job.return_value = False
    job.refuse_others(guest)

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
from nova_snapdriver import guest as snap_guest

SOCKET = '/scratch/nbd'


@pytest.fixture(autouse=True)
def no_pauses():
    with mock.patch('time.sleep'):
        yield


@pytest.fixture
def guest():
    found = mock.create_autospec(snap_guest.Guest, instance=True)
    found.instance, found.name = None, 'instance-1'
    return found


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

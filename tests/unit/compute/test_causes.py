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

"""What makes a snapshot that is being sent useless."""

import threading
import types
from unittest import mock

from nova import exception as nova_exception
import pytest

from nova_snapdriver.capture import export
from nova_snapdriver.compute import causes
from nova_snapdriver.compute import running
from nova_snapdriver import database
from nova_snapdriver import exception
from nova_snapdriver import guest as snap_guest

SOCKET = '/scratch/nbd'


@pytest.fixture
def guest():
    found = mock.create_autospec(snap_guest.Guest, instance=True)
    found.instance = types.SimpleNamespace(uuid='server')
    found.backup_socket.return_value = SOCKET
    found.exists.return_value = True
    return found


@pytest.fixture
def snapshot():
    return running.Snapshot('server')


@pytest.fixture
def image():
    return mock.Mock(id='image', **{'deleted.return_value': False})


@pytest.fixture
def deleted():
    with (mock.patch.object(database, 'is_deleted',
                            return_value=False) as asked,
          mock.patch.object(database, 'show_progress')):
        yield asked


@pytest.fixture
def watched(snapshot, guest, image, deleted):
    """The causes that show, with how often each is asked."""
    def call(has_job=True, ahead=None):
        watch = causes.watch(snapshot, export.Export(SOCKET, 'vda', ahead),
                             guest, image, has_job)
        asked = [due.cause for due in watch._causes]
        return [cause.ask() for cause in asked], [
            cause.seconds for cause in asked]
    return call


def test_before_the_capture(snapshot):
    ended = threading.Event()
    with (pytest.raises(KeyError, match='stop'),
          causes.early(snapshot) as ends, ends.ending(ended.set)):
        snapshot.end(KeyError('stop'))
        assert ended.wait(60)
        raise ZeroDivisionError


def test_nothing(watched):
    found, seconds = watched()
    assert found == [None] * 4
    # What costs others more is asked less often.
    assert sorted(seconds) == [0.5, 2, 5, 15]


def test_what_this_process_knows_is_asked_most_often(watched, snapshot):
    snapshot.end(KeyError('stop'))
    (cause, *_), (seconds, *_) = watched()
    assert cause is snapshot.cause
    assert seconds == 0.5


def test_server_that_is_deleted_elsewhere(watched, deleted):
    deleted.return_value = True
    assert isinstance(watched()[0][1], nova_exception.InstanceNotFound)


def test_progress_is_shown_as_often_as_the_server_is_looked_at(
        watched, snapshot):
    watched()
    assert not database.show_progress.called
    snapshot.note_sent(42, 100)
    watched()
    assert database.show_progress.call_args.args[::2] == ('server', 42)


def test_image_that_is_deleted(watched, image):
    image.deleted.return_value = True
    assert isinstance(watched()[0][2], nova_exception.ImageNotFound)


@pytest.mark.parametrize('exists, words', (
    (False, 'the server was stopped'), (True, 'restarted, or its backup')))
def test_job_that_is_gone(exists, words, watched, guest):
    guest.backup_socket.return_value = None
    guest.exists.return_value = exists
    cause = watched()[0][3]
    assert isinstance(cause, exception.Cancelled)
    assert words in str(cause)


def test_job_of_another_client_is_not_ours(watched, guest):
    guest.backup_socket.return_value = '/other'
    assert watched()[0][3] is not None


def test_job_that_we_have_ended_early_is_no_cause(watched, guest):
    guest.backup_socket.return_value = None
    assert watched(ahead=mock.Mock(ended=True))[0][3] is None


def test_guest_without_a_job_may_do_what_it_likes(watched, guest):
    guest.backup_socket.return_value = None
    assert watched(has_job=False)[0] == [None] * 3


def test_libvirt_that_is_away_is_no_cause(watched, guest):
    guest.backup_socket.return_value = None
    guest.exists.side_effect = exception.CaptureFailed(reason='no answer')
    with pytest.raises(exception.CaptureFailed):
        watched()

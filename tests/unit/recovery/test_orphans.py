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

"""Images of snapshots that nova-compute died before."""

import datetime
import types
from unittest import mock

from nova.compute import task_states
from nova import exception as nova_exception
import nova.objects
import pytest

from nova_snapdriver.recovery import images
from nova_snapdriver.recovery import orphans

nova.objects.register_all()


class Server(types.SimpleNamespace):
    """An instance in the database."""

    uuid, name, task_state = 'server', 'instance-1', None
    error = None

    def save(self, expected_task_state):
        if self.error is not None:
            raise self.error
        self.saved = (self.task_state, expected_task_state)


class Glance:
    """The images without data of the instance, with when they were made."""

    def __init__(self):
        self.images = {}
        self.away = False
        self.filling, self.deleted = set(), []

    def unbegun(self, uuid, before):
        if uuid != 'server':
            return []
        if self.away:
            raise nova_exception.GlanceConnectionFailed(server='g', reason='')
        return [image for image, made in self.images.items()
                if before is None or made < before]

    def delete(self, image, uuid):
        assert uuid == 'server'
        if image in self.filling:
            return False
        del self.images[image]
        self.deleted.append(image)
        return True


@pytest.fixture
def server():
    return Server()


@pytest.fixture
def glance():
    found = Glance()
    before = datetime.datetime.now(datetime.UTC)
    found.images['image-of-server'] = before
    with (mock.patch.object(images, 'unbegun', found.unbegun),
          mock.patch.object(images, 'delete_unbegun', found.delete)):
        yield found


@pytest.fixture(autouse=True)
def deleted():
    """The servers that were deleted while nova-compute was down."""
    found = []
    with mock.patch('nova.objects.InstanceList.get_by_filters',
                    return_value=found):
        yield found


@pytest.fixture
def left(server, glance):
    with (mock.patch('nova.objects.InstanceList.get_by_host',
                     return_value=[server]) as listed,
          mock.patch('nova.objects.Instance.get_by_uuid',
                     return_value=server)):
        yield orphans.Orphans('host')
    assert all(call.args[1] == 'host' for call in listed.call_args_list)


@pytest.mark.parametrize('state', (
    task_states.IMAGE_SNAPSHOT,
    task_states.IMAGE_PENDING_UPLOAD, task_states.IMAGE_UPLOADING,
    task_states.SHELVING_IMAGE_PENDING_UPLOAD,
    task_states.SHELVING_IMAGE_UPLOADING))
def test_an_image_that_nobody_will_fill_is_deleted(state, server, glance,
                                                   left):
    server.task_state = state
    left.find()
    assert not glance.images
    assert left.remove() is False


@pytest.mark.parametrize('state', (
    None, task_states.IMAGE_SNAPSHOT_PENDING, task_states.IMAGE_BACKUP,
    task_states.SHELVING, task_states.REBUILDING))
def test_a_request_that_may_still_come_keeps_its_image(state, server, glance,
                                                       left):
    server.task_state = state
    left.find()
    server.task_state = None
    assert left.remove() is False
    assert glance.images


def test_server_that_was_deleted_meanwhile_leaves_no_image(server, glance,
                                                           left, deleted):
    """Its task state, which would tell of the request, is gone with it."""
    server.task_state = None
    deleted.append(server)
    left.find()
    # Not at the start of nova-compute, which may find a hundred of them.
    assert glance.images and left.pending()
    assert left.remove() is False
    assert not glance.images


def test_an_image_that_gets_its_data_meanwhile_stays(server, glance, left):
    server.task_state = task_states.IMAGE_SNAPSHOT
    glance.filling.add('image-of-server')
    left.find()
    assert glance.images


@pytest.mark.parametrize('state', (
    task_states.SHELVING_IMAGE_PENDING_UPLOAD,
    task_states.SHELVING_IMAGE_UPLOADING))
def test_task_state_that_nova_does_not_clear_is_cleared(state, server, left):
    server.task_state = state
    left.find()
    assert server.saved == (None, [state])


@pytest.mark.parametrize('state', (
    task_states.IMAGE_SNAPSHOT, task_states.IMAGE_UPLOADING,
    task_states.SHELVING, task_states.IMAGE_BACKUP, None))
def test_task_state_that_nova_sees_to_is_left(state, server, left):
    server.task_state = state
    left.find()
    assert not hasattr(server, 'saved')


def test_server_that_has_another_task_by_now_hides_no_other(server, glance):
    """Its state is not ours to clear, and the image of the other goes."""
    moved = Server(uuid='moved', error=(
        nova_exception.UnexpectedTaskStateError(
            instance_uuid='moved', expected=['x'], actual=['y'])))
    moved.task_state = task_states.SHELVING_IMAGE_UPLOADING
    server.task_state = task_states.IMAGE_SNAPSHOT
    with (mock.patch('nova.objects.InstanceList.get_by_host',
                     return_value=[moved, server])):
        orphans.Orphans('host').find()
    assert glance.deleted == ['image-of-server']


def test_database_that_is_away_for_a_moment_is_asked_again(server, glance):
    server.task_state = task_states.IMAGE_SNAPSHOT
    with (mock.patch('time.sleep'),
          mock.patch('nova.objects.InstanceList.get_by_host',
                     side_effect=[OSError('away'), [server]])):
        orphans.Orphans('host').find()
    assert glance.deleted == ['image-of-server']


def test_database_that_is_away_is_no_reason_not_to_start(caplog):
    with (mock.patch('time.sleep'),
          mock.patch('nova.objects.InstanceList.get_by_host',
                     side_effect=OSError('away'))):
        orphans.Orphans('host').find()
    assert 'may stay queued: away' in caplog.text


@pytest.fixture
def later(server, glance, left):
    """Glance was away at the start of nova-compute."""
    server.task_state = task_states.IMAGE_SNAPSHOT
    glance.away = True
    left.find()
    assert left.remove() is True
    glance.away, server.task_state = False, None
    return left


def test_image_is_deleted_once_glance_answers(glance, later):
    assert later.remove() is False
    assert not glance.images


def test_image_of_a_server_with_a_task_may_be_that_tasks(server, glance,
                                                         later):
    server.task_state = task_states.IMAGE_SNAPSHOT_PENDING
    assert later.remove() is True
    assert glance.images


def test_image_that_was_made_after_the_start_stays(glance, later):
    glance.images['new'] = datetime.datetime.now(datetime.UTC)
    assert later.remove() is False
    assert list(glance.images) == ['new']


def test_images_of_a_server_that_is_gone_are_deleted(glance, later):
    with mock.patch('nova.objects.Instance.get_by_uuid',
                    side_effect=nova_exception.InstanceNotFound(
                        instance_id='server')):
        assert later.remove() is False
    assert not glance.images


def test_what_stays_the_same_is_logged_once(server, glance, left, caplog):
    server.task_state, glance.away = task_states.IMAGE_SNAPSHOT, True
    left.find()
    server.task_state = None
    for _ in range(3):
        assert left.remove() is True
    assert caplog.text.count('may stay queued') == 1

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
    saves = None

    def save(self, expected_task_state):
        self.saves = (self.task_state, expected_task_state)


class Glance:
    """The images without data of the instance, with when they were made."""

    def __init__(self):
        self.images = {}
        self.away = False
        self.filling = set()

    def unbegun(self, uuid, before):
        assert uuid == 'server'
        if self.away:
            raise nova_exception.GlanceConnectionFailed(server='g', reason='')
        return [image for image, made in self.images.items()
                if before is None or made < before]

    def delete(self, image, uuid):
        assert uuid == 'server'
        if image in self.filling:
            return False
        del self.images[image]
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


def test_an_image_that_gets_its_data_meanwhile_stays(server, glance, left):
    server.task_state = task_states.IMAGE_SNAPSHOT
    glance.filling.add('image-of-server')
    left.find()
    assert glance.images

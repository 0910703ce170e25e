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

import types
from unittest import mock

from nova.compute import task_states
import pytest

from nova_snapdriver.recovery import images
from nova_snapdriver.recovery import orphans


@pytest.fixture
def remove():
    """Calls it for one instance, and says which images it deleted."""
    def call(task_state, deletable=True):
        instance = types.SimpleNamespace(uuid='server', name='instance-1',
                                         task_state=task_state)
        deleted = []

        def delete(image, instance_uuid):
            assert instance_uuid == 'server'
            deleted.append(image)
            return deletable

        with (mock.patch('nova.objects.InstanceList.get_by_host',
                         return_value=[instance]) as listed,
              mock.patch.object(images, 'unbegun',
                                lambda uuid: [f'image-of-{uuid}']),
              mock.patch.object(images, 'delete_unbegun', delete)):
            orphans.remove('host')
        assert listed.call_args.args[1] == 'host'
        return deleted
    return call


@pytest.mark.parametrize('state', (
    task_states.IMAGE_SNAPSHOT, task_states.IMAGE_BACKUP,
    task_states.IMAGE_PENDING_UPLOAD, task_states.IMAGE_UPLOADING))
def test_an_image_that_nobody_will_fill_is_deleted(state, remove):
    assert remove(state) == ['image-of-server']


@pytest.mark.parametrize('state', (
    None, task_states.IMAGE_SNAPSHOT_PENDING, task_states.SHELVING,
    task_states.REBUILDING))
def test_a_request_that_may_still_come_keeps_its_image(state, remove):
    assert remove(state) == []


def test_an_image_that_got_its_data_meanwhile_stays(remove):
    assert remove(task_states.IMAGE_SNAPSHOT, deletable=False)

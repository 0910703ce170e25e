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

"""Snapshots by the whole driver, as Nova's manager calls it."""

from nova.compute import task_states
from nova import context as nova_context
from nova import objects

IMAGE_ID = 'f0a1c6de-52b3-4c7e-8a9d-3b6e0d9c7f21'


class Snapshot:
    """One call of the driver, as Nova's manager makes it."""

    def __init__(self, snap_driver, guest, **properties):
        self.driver = snap_driver
        self.context = nova_context.RequestContext(
            'user', 'project', auth_token='token')
        self.instance = objects.Instance(
            id=1, uuid=guest.instance.uuid, project_id='project',
            kernel_id='', ramdisk_id='', os_type='linux', image_ref='',
            numa_topology=None, pci_devices=objects.PciDeviceList(objects=[]),
            pci_requests=objects.InstancePCIRequests(requests=[]),
            info_cache=objects.InstanceInfoCache(network_info=None),
            system_metadata={'image_' + name: value
                             for name, value in properties.items()})
        self.states = []

    def take(self):
        self.driver.snapshot(self.context, self.instance, IMAGE_ID,
                             self._update_task_state)

    def take_for_a_resize(self):
        """As before a move to another cell: the task is the resize."""
        self.instance.task_state = task_states.RESIZE_MIGRATING
        self.driver.snapshot(self.context, self.instance, IMAGE_ID,
                             lambda *states, **named: None)

    def _update_task_state(self, task_state, expected_state='image_snapshot'):
        self.states.append((expected_state, task_state))


def assert_clean(guest, area):
    """The guest is as it was, and nothing is left of the snapshot."""
    guest.assert_untouched()
    assert sorted((area / 'snapshots').glob('*')) == []
    assert sorted((area / 'journal').glob('*')) == []

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

"""After a crash: images of snapshots that had not come to the driver yet.

Nova's API makes an image before it asks for the snapshot, and nova-compute
takes the request off the queue before it begins: one that waits for its turn
([DEFAULT] max_concurrent_snapshots) or has just begun leaves, when
nova-compute dies, an image that is queued for ever and no journal.
"""

from typing import Any

from nova.compute import task_states
from nova import context as nova_context
from nova import objects
from oslo_log import log as logging

from nova_snapdriver.recovery import images

LOG = logging.getLogger(__name__)

# Only nova-compute sets these, and this start clears them a moment later. Not
# those that the API sets: their requests may still be in the queue.
_BEGUN = frozenset((
    task_states.IMAGE_SNAPSHOT, task_states.IMAGE_BACKUP,
    task_states.IMAGE_PENDING_UPLOAD, task_states.IMAGE_UPLOADING))


def remove(host: str) -> None:
    """Delete images without data whose snapshots nobody takes any more.

    For the start of nova-compute, before Nova clears the task states and after
    the journal's snapshots were undone. Never raises: what fails is logged.

    :param host: nova-compute's name
    """
    try:
        for instance in _cut_short(host):
            for image in images.unbegun(instance.uuid):
                if images.delete_unbegun(image, instance.uuid):
                    LOG.warning('Deleted image %s of a snapshot that had not '
                                'begun', image, instance=instance)
    except Exception as ex:
        LOG.error('Cannot look for images of snapshots that had not begun, '
                  'which may stay queued: %s', ex)


def _cut_short(host: str) -> list[Any]:
    """The instances of a host whose snapshots ended with nova-compute."""
    found = objects.InstanceList.get_by_host(
        nova_context.get_admin_context(), host, expected_attrs=[])
    return [one for one in found if one.task_state in _BEGUN]

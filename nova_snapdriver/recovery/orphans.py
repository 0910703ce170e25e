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

"""After a crash: what snapshots left that had not come to the driver yet.

Nova's API makes an image before it asks for the snapshot, and nova-compute
takes the request off the queue before it begins: one that waits for its turn,
or has just begun, leaves when nova-compute dies an image that is queued for
ever, and no entry in the journal; also if its server is deleted before
nova-compute comes back. A shelve leaves a task state, too, that
Nova does not clear.
"""

import datetime
from typing import Any

from nova import exception as nova_exception
from oslo_log import log as logging

from nova_snapdriver import database
from nova_snapdriver.recovery import images
from nova_snapdriver import waiting

LOG = logging.getLogger(__name__)

# nova-compute waits for it, and Nova itself does not start without a database.
_ATTEMPTS = 3
_PAUSE_SECONDS = 1


class Orphans:
    """Images that no request will fill, of one host.

    :param host: nova-compute's name
    """

    def __init__(self, host: str) -> None:
        self._host = host
        # With the last error of each, which is logged once.
        self._instances: dict[str, str] = {}
        self._started = datetime.datetime.now(datetime.UTC)

    def find(self) -> None:
        """Find the servers whose snapshots ended with nova-compute.

        For its start: before Nova clears the task states, and before it takes
        a request. Never raises: what fails is logged.
        """
        try:
            # Later nobody can tell: Nova clears the task states.
            begun, deleted = waiting.retry(
                self._ask, 'Asking for servers', None, errors=(Exception,),
                attempts=_ATTEMPTS, pause=_PAUSE_SECONDS)
        except Exception as ex:
            LOG.error('Cannot look for snapshots that had not begun, whose '
                      'images may stay queued: %s', ex)
            return
        # Later: nothing changes for them, and nova-compute is to start.
        self._instances.update((instance.uuid, '') for instance in deleted)
        for instance in begun:
            self._instances[instance.uuid] = ''
            self._remove_of(instance.uuid, None)
            if instance.task_state in database.NOT_CLEARED:
                _clear_task(instance)

    def _ask(self) -> tuple[list[Any], list[Any]]:
        return (database.begun(self._host),
                database.deleted_meanwhile(self._host))

    def pending(self) -> bool:
        """Whether there is something for :meth:`remove`."""
        return bool(self._instances)

    def remove(self) -> bool:
        """Remove what :meth:`find` has left, as Glance was away or may be.

        :returns: whether something is left
        """
        for uuid in tuple(self._instances):
            if _has_no_task(uuid):
                self._remove_of(uuid, self._started)
        return self.pending()

    def _remove_of(self, uuid: str, before: datetime.datetime | None) -> None:
        try:
            for image in images.unbegun(uuid, before):
                if images.delete_unbegun(image, uuid):
                    LOG.warning('Deleted image %(image)s of a snapshot of '
                                'instance %(uuid)s that had not begun',
                                {'image': image, 'uuid': uuid})
        except Exception as ex:
            if self._instances[uuid] != str(ex):
                LOG.error('Images of instance %(uuid)s may stay queued, this '
                          'is tried again: %(error)s',
                          {'uuid': uuid, 'error': ex})
            self._instances[uuid] = str(ex)
            return
        del self._instances[uuid]


def _clear_task(instance: Any) -> None:
    try:
        database.clear_task(instance)
    except Exception as ex:
        LOG.error('The task state that a snapshot has left cannot be cleared: '
                  '%s', ex, instance=instance)


def _has_no_task(uuid: str) -> bool:
    """Whether no new snapshot of a server can be under way."""
    try:
        return database.find(uuid).task_state is None
    except nova_exception.InstanceNotFound:
        return True

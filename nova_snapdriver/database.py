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

"""What the database knows; and waits, if it is away when a snapshot ends.

Nova's manager notes that a server has no task any more, once. If it cannot,
the server keeps its task until the next start of nova-compute, no action is
allowed on it, and the image of a snapshot that went well is deleted.
"""

from collections.abc import Callable
import functools
import time
from typing import Any

from nova import context as nova_context
from nova import objects
from oslo_log import log as logging
from oslo_utils import timeutils

LOG = logging.getLogger(__name__)

# What comes of a database or a message queue that is away, by name: it may be
# raised here, or by the conductor and named in a RemoteError. Whatever else is
# the matter, waiting does not mend it.
_AWAY = frozenset(('DBConnectionError', 'MessagingTimeout',
                   'MessageDeliveryFailure'))
# A restart of a database takes seconds, a failover a minute.
_WAIT_SECONDS = 120
_PAUSE_SECONDS = 1

Snapshot = Callable[..., None]


def awaited(snapshot: Snapshot) -> Snapshot:
    """Have ``snapshot()`` end, well or not, when its end can be noted.

    :param snapshot: :meth:`nova.virt.driver.ComputeDriver.snapshot`
    """
    @functools.wraps(snapshot)
    def wrapped(driver: Any, context: Any, instance: Any, *rest: Any,
                **named: Any) -> None:
        try:
            snapshot(driver, context, instance, *rest, **named)
        finally:
            _wait(instance)

    return wrapped


def find(uuid: str) -> Any:
    """The instance as the database has it now, without what belongs to it.

    :raises nova.exception.InstanceNotFound: it is gone
    :raises Exception: nobody answers
    """
    return objects.Instance.get_by_uuid(nova_context.get_admin_context(), uuid,
                                        expected_attrs=[])


def _wait(instance: Any) -> None:
    """Wait until the database answers, or for long enough."""
    deadline = timeutils.StopWatch(_WAIT_SECONDS).start()
    away = _away(instance)
    if away is not None:
        LOG.warning('The end of the snapshot cannot be noted, waiting up to '
                    '%d s for the database: %s', _WAIT_SECONDS, away,
                    instance=instance)
    while away is not None and not deadline.expired():
        time.sleep(_PAUSE_SECONDS)
        away = _away(instance)


def _away(instance: Any) -> Exception | None:
    """What says that nobody can know of the server now; none if not so."""
    try:
        find(instance.uuid)
    except Exception as ex:
        if {type(ex).__name__, getattr(ex, 'exc_type', None)} & _AWAY:
            return ex
    return None

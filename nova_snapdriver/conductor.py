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

"""Waits for a database that is away just when a snapshot ends.

Nova's manager notes that a server has no task any more, once. If it cannot,
the server keeps its task until the next start of nova-compute, no action is
allowed on it, and the image of a snapshot that went well is deleted.
"""

from collections.abc import Callable
import functools
import time
from typing import Any

from nova import context as nova_context
from nova import exception as nova_exception
from nova import objects
from oslo_log import log as logging
from oslo_utils import timeutils

LOG = logging.getLogger(__name__)

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


def _wait(instance: Any) -> None:
    """Wait until the database answers, or for long enough."""
    deadline = timeutils.StopWatch(_WAIT_SECONDS).start()
    complained = False
    while not _answers(instance, complained) and not deadline.expired():
        complained = True
        time.sleep(_PAUSE_SECONDS)


def _answers(instance: Any, complained: bool) -> bool:
    """Whether somebody knows of the server, or knows of none."""
    try:
        objects.Instance.get_by_uuid(nova_context.get_admin_context(),
                                     instance.uuid, expected_attrs=[])
    except nova_exception.InstanceNotFound:
        pass
    except Exception as ex:
        if not complained:
            LOG.warning('The end of the snapshot cannot be noted, waiting up '
                        'to %d s for the database: %s', _WAIT_SECONDS, ex,
                        instance=instance)
        return False
    return True

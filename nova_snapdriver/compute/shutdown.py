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

"""Stop nova-compute: finish what is nearly done, and undo the rest in time.

Nova 34 waits for tasks in progress when it is told to stop, then calls the
driver's cleanup_host(), and has some 20 seconds left. So an upload that would
not be done by then is ended at once, and not when there is no time to undo it.
"""

import threading
from typing import Any

import nova.conf
from oslo_log import log as logging
from oslo_utils import timeutils

from nova_snapdriver import compat
from nova_snapdriver.compute import running

LOG = logging.getLogger(__name__)
CONF = nova.conf.CONF

_POLL_SECONDS = 1

# Of the time that Nova waits, for the verification and the release.
_MARGIN_SECONDS = 5

# Of the some 20 seconds that Nova has for cleanup_host().
_UNDO_SECONDS = 15


class Shutdown:
    """Ends the snapshots of this process as nova-compute stops.

    :param virtapi: of Nova's driver
    """

    def __init__(self, virtapi: Any, snapshots: running.Running) -> None:
        self._virtapi = virtapi
        self._snapshots = snapshots
        self._ended = threading.Event()

    def watch(self) -> None:
        """Begin to watch for the order to stop, which older Novas never show.

        In eventlet mode the thread is a green one.
        """
        if compat.shutdown_event(self._virtapi) is not None:
            threading.Thread(target=self._watch, daemon=True).start()

    def end(self) -> None:
        """End all snapshots, and wait until they are undone."""
        self._ended.set()
        self._snapshots.end_all(_UNDO_SECONDS)

    def _watch(self) -> None:
        event = compat.shutdown_event(self._virtapi)
        while not event.is_set():
            if self._ended.wait(_POLL_SECONDS):
                return
        left = timeutils.StopWatch(max(
            0, compat.shutdown_seconds() - _MARGIN_SECONDS)).start()
        while not self._ended.wait(_POLL_SECONDS):
            self._snapshots.end_late(left.leftover(return_none=True) or 0)

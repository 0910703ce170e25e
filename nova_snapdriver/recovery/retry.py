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

"""What a failed snapshot could not undo, undone when that works again.

Glance may be away for a moment just when an image is to be deleted. Nobody is
to wait for the next start of nova-compute then.
"""

from collections.abc import Callable
import enum
import threading
import time

from oslo_log import log as logging

LOG = logging.getLogger(__name__)

# Soon at first, as most troubles are short, and then less and less often.
_FIRST_SECONDS = 5
_MOST_SECONDS = 300
_GUEST_SECONDS = 30
_FACTOR = 2


class Left(enum.Enum):
    """What an attempt leaves to be done."""

    NOTHING = 'nothing'
    SOMETHING = 'something'
    #: Of a guest, which is not to wait for long.
    GUEST = 'guest'


class Retry:
    """Tries something again, in a thread, until there is nothing left of it.

    :param attempt: says what is left
    """

    def __init__(self, attempt: Callable[[], Left]) -> None:
        self._attempt = attempt
        self._lock = threading.Lock()
        self._running = False
        self._wanted = False

    def begin(self) -> None:
        """Begin to try. One thread does for all that is to be undone."""
        with self._lock:
            self._wanted = True
            if self._running:
                return
            self._running = True
        # In eventlet mode a green one: it calls libvirt and Glance as Nova
        # does.
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        pause = _FIRST_SECONDS
        while self._wants():
            time.sleep(pause)
            left = self._try()
            if left is not Left.NOTHING:
                self._wanted = True
            pause = min(pause * _FACTOR, _GUEST_SECONDS if left is Left.GUEST
                        else _MOST_SECONDS)

    def _try(self) -> Left:
        try:
            return self._attempt()
        except Exception:
            LOG.exception('Cannot undo what snapshots have left')
            return Left.SOMETHING

    def _wants(self) -> bool:
        """Whether there is something to do; if not, the thread ends."""
        with self._lock:
            self._running, self._wanted = self._wanted, False
            return self._running

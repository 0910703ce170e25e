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

"""Cancel a transfer whose server or image is gone."""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
import contextlib
import threading
import time
import types
from typing import Self

from oslo_log import log as logging
from oslo_utils import timeutils

LOG = logging.getLogger(__name__)

# Each look takes a request to Glance and one or two to libvirt.
_POLL_SECONDS = 2

# The export of a QEMU that dies is gone at once. libvirt says so later: it
# waits for the process, and cleans up after it.
_LAG_SECONDS = 15
_LAG_POLL_SECONDS = 0.2

# Returns the exception to end with, None to go on. One that raises knows
# neither, and is asked again.
Cause = Callable[[], Exception | None]


class Watch:
    """Looks for a cause to cancel, in a thread, and ends the block's work.

    Work that fails then raises the exception of the cause instead of its own.
    Work that succeeds all the same has succeeded.

    :param causes: asked in turn, every two seconds
    :param expected: asked if the work failed without a cause: whether one is
        bound to show a little later
    """

    def __init__(self, causes: Sequence[Cause],
                 expected: Callable[[], bool] = lambda: False) -> None:
        self._causes = causes
        self._expected = expected
        self._cause: Exception | None = None
        self._endings: list[Callable[[], None]] = []
        self._stopping = threading.Event()
        # In eventlet mode a green one: it calls libvirt and Glance as Nova
        # does, and shares nothing that waits with the native thread that
        # sends.
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, exc_type: type[BaseException] | None,
                 exc: BaseException | None,
                 traceback: types.TracebackType | None) -> None:
        self._stopping.set()
        self._thread.join()
        if not isinstance(exc, Exception):
            return
        if self._cause is None:
            self._look_for_late_one()
        if self._cause is not None:
            raise self._cause from exc

    def _look_for_late_one(self) -> None:
        """The work may fail before its cause shows: QEMU takes the export."""
        self._look()
        deadline = timeutils.StopWatch(_LAG_SECONDS).start()
        while (self._cause is None and not deadline.expired() and
               self._expected()):
            time.sleep(_LAG_POLL_SECONDS)
            self._look()

    @contextlib.contextmanager
    def ending(self, *endings: Callable[[], None]) -> Iterator[None]:
        """Have the work in the block ended on a cause.

        :param endings: called in another thread, and again every two seconds:
            work that had not begun yet is ended the next time
        """
        self._endings.extend(endings)
        try:
            yield
        finally:
            self._endings.clear()

    def _watch(self) -> None:
        while not self._stopping.wait(_POLL_SECONDS):
            if self._cause is None:
                self._look()
            if self._cause is not None:
                self._end()

    def _look(self) -> None:
        for cause in self._causes:
            try:
                self._cause = cause()
            except Exception as ex:
                LOG.debug('Cannot see whether a snapshot is still needed: %s',
                          ex)
            if self._cause is not None:
                LOG.warning('The snapshot is given up: %s', self._cause)
                return

    def _end(self) -> None:
        for end in tuple(self._endings):
            try:
                end()
            except Exception as ex:
                LOG.warning('Cannot end a transfer yet: %s', ex)

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

"""Ends a transfer that nobody has a use for any more."""

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

# A look takes a request to Glance and one or two to libvirt.
_POLL_SECONDS = 2

# How long libvirt may take to see that a QEMU has died, whose export is gone
# at once: it waits for the process, and cleans up after it.
_LAG_SECONDS = 15
_LAG_POLL_SECONDS = 0.2

# Gives the exception to end with; none if there is no reason to. What it
# raises is no answer: it is asked again.
Cause = Callable[[], Exception | None]


class Watch:
    """Watches in a thread, and ends what the caller does on a cause.

    What fails because of a cause raises the cause's exception instead of its
    own. What was done already is done.

    :param causes: asked in turn
    :param expected: asked when something failed and no cause is seen, whether
        there has to be one that shows a little later
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
        """What failed may have been quicker: an export breaks with QEMU."""
        self._look()
        deadline = timeutils.StopWatch(_LAG_SECONDS).start()
        while (self._cause is None and not deadline.expired() and
               self._expected()):
            time.sleep(_LAG_POLL_SECONDS)
            self._look()

    @contextlib.contextmanager
    def ending(self, *endings: Callable[[], None]) -> Iterator[None]:
        """What to call on a cause, until the end of the block.

        :param endings: called in another thread, and more than once: what
            begins just then is ended the next time
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
                LOG.debug('Cannot see whether a snapshot is still of use: %s',
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

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
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
import contextlib
import dataclasses
import random
import threading
import types
from typing import Self

from oslo_log import log as logging
from oslo_utils import timeutils

from nova_snapdriver import waiting

LOG = logging.getLogger(__name__)

# How often it is seen which cause is to be asked again.
_POLL_SECONDS = 0.5

# The export of a QEMU that dies is gone at once. libvirt says so later: it
# waits for the process, and cleans up after it.
_LAG_SECONDS = 15
_LAG_POLL_SECONDS = 0.2


@dataclasses.dataclass(frozen=True)
class Cause:
    """What may end a transfer.

    :param ask: returns the exception to end with, None to go on. One that
        raises knows neither, and is asked again.
    :param seconds: between two questions, about
    """

    ask: Callable[[], Exception | None]
    seconds: float = _POLL_SECONDS


class _Due:
    """Says when a cause is to be asked again.

    At first at a random time: many snapshots begin at once, and do not ask a
    service at once for ever.
    """

    def __init__(self, cause: Cause) -> None:
        self.cause = cause
        self._watch = timeutils.StopWatch(
            random.uniform(0, cause.seconds)).start()

    def take(self) -> bool:
        """Whether it is due; then not again for a while."""
        if not self._watch.expired():
            return False
        self._watch = timeutils.StopWatch(self.cause.seconds).start()
        return True


class Watch:
    """Looks for a cause to cancel, in a thread, and ends the block's work.

    Work that fails then raises the exception of the cause instead of its own.
    Work that succeeds all the same has succeeded.

    :param causes: each asked again and again
    :param expected: asked if the work failed without a cause: whether one is
        bound to show a little later
    """

    def __init__(self, causes: Sequence[Cause],
                 expected: Callable[[], bool] = lambda: False) -> None:
        self._causes = [_Due(cause) for cause in causes]
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
        def looked() -> bool:
            self._look([due.cause for due in self._causes])
            return self._cause is not None or not self._expected()

        waiting.wait_until(looked, _LAG_SECONDS, _LAG_POLL_SECONDS)

    @contextlib.contextmanager
    def ending(self, *endings: Callable[[], None]) -> Iterator[None]:
        """Have the work in the block ended on a cause.

        :param endings: called in another thread, and again and again: work
            that had not begun yet is ended the next time
        """
        self._endings.extend(endings)
        try:
            yield
        finally:
            self._endings.clear()

    def _watch(self) -> None:
        while not self._stopping.wait(_POLL_SECONDS):
            if self._cause is None:
                self._look([due.cause for due in self._causes if due.take()])
            if self._cause is not None:
                self._end()

    def _look(self, causes: Iterable[Cause]) -> None:
        for cause in causes:
            try:
                self._cause = cause.ask()
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

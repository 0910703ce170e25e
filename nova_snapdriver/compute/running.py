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

"""The snapshots that this process takes, and what ends them early.

A deletion of the server, or a stop of nova-compute, ends a snapshot here, and
waits until it has released the disk.
"""

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import threading
from typing import Any

from nova import exception as nova_exception
from oslo_log import log as logging
from oslo_utils import timeutils

from nova_snapdriver import exception
from nova_snapdriver import waiting

LOG = logging.getLogger(__name__)

# How long a deletion waits. To end a backup job and a qemu-nbd takes a second;
# a busy disk can make it more.
_RELEASE_SECONDS = 60
_POLL_SECONDS = 0.1

# How often one that waits for its turn looks whether it is still wanted.
_TURN_SECONDS = 1


class Snapshot:
    """One snapshot of this process.

    :param uuid: of its instance
    """

    def __init__(self, uuid: str) -> None:
        self.uuid = uuid
        self._cause: Exception | None = None
        self._sent = 0
        self._length = 0
        self._watch: timeutils.StopWatch | None = None

    def end(self, cause: Exception) -> None:
        """Have it fail soon, with this exception. The first one counts."""
        if self._cause is None:
            self._cause = cause

    @property
    def cause(self) -> Exception | None:
        """What it is to end with; none if it goes on."""
        return self._cause

    def check(self) -> None:
        """:raises Exception: it is to end, and this is with what"""
        if self._cause is not None:
            raise self._cause

    def note_sent(self, done: int, length: int) -> None:
        """Note how many bytes of the image were sent."""
        if self._watch is None:
            self._watch = timeutils.StopWatch().start()
        self._sent, self._length = done, length

    @property
    def percent(self) -> int:
        """How much of the image was sent; 0 before the upload."""
        return 100 * self._sent // self._length if self._length else 0

    def seconds_left(self) -> float:
        """How long the upload will go on at its speed so far.

        Infinity for one that has not begun.
        """
        if self._watch is None or not self._sent:
            return float('inf')
        left = self._length - self._sent
        return float(self._watch.elapsed() * left / self._sent)


class Running:
    """All snapshots of this process.

    :param limit: how many may be at work at a time, [DEFAULT]
        max_concurrent_snapshots; 0 for no limit
    """

    def __init__(self, limit: int) -> None:
        self._turns = threading.Semaphore(limit) if limit else None
        self._snapshots: list[Snapshot] = []

    @contextlib.contextmanager
    def one(self, uuid: str) -> Iterator[Snapshot]:
        """Know of a snapshot until the end of the block.

        :param uuid: of its instance
        """
        snapshot = Snapshot(uuid)
        self._snapshots.append(snapshot)
        try:
            yield snapshot
        finally:
            self._snapshots.remove(snapshot)

    def turn(self, snapshot: Snapshot
             ) -> contextlib.AbstractContextManager[None]:
        """Wait until there are few enough others at work.

        Nova 34 with native threads leaves the limit to the driver: builds and
        snapshots share one pool of threads.

        :raises Exception: the snapshot is to end
        """
        return taken(self._turns, snapshot)

    def end_of(self, instance: Any) -> None:
        """End the snapshots of an instance, and wait until they are undone.

        For the beginning of its deletion: LVM volumes are zeroed then, and
        RBD images with a snapshot cannot be removed.
        """
        lost = nova_exception.InstanceNotFound(instance_id=instance.uuid)
        self._end(lambda snapshot: snapshot.uuid == instance.uuid, lost,
                  _RELEASE_SECONDS)

    def end_all(self, seconds: float) -> None:
        """End all snapshots, as nova-compute stops.

        :param seconds: to wait until they are undone
        """
        self._end(lambda snapshot: True, _stopped(), seconds)

    def end_late(self, seconds: float) -> None:
        """End the snapshots whose uploads would take longer than this."""
        self._end(lambda snapshot: snapshot.seconds_left() > seconds,
                  _stopped(), 0)

    def _end(self, which: Callable[[Snapshot], bool], cause: Exception,
             seconds: float) -> None:
        chosen = [one for one in self._snapshots if which(one)]
        for snapshot in chosen:
            snapshot.end(cause)
        if seconds and not waiting.wait_until(
                lambda: not any(one in self._snapshots for one in chosen),
                seconds, _POLL_SECONDS):
            LOG.error('Snapshots of the instances %s have not ended after '
                      '%d s', ', '.join(one.uuid for one in chosen), seconds)


@contextlib.contextmanager
def taken(semaphore: Any, snapshot: Snapshot) -> Iterator[None]:
    """Hold a semaphore, and do not wait for it in vain.

    :param semaphore: of :mod:`threading`; one of Nova's without a limit, or
        None, is not waited for
    :raises Exception: the snapshot is to end
    """
    if not hasattr(semaphore, 'acquire'):
        yield
        return
    while not semaphore.acquire(timeout=_TURN_SECONDS):
        snapshot.check()
    try:
        snapshot.check()
        yield
    finally:
        semaphore.release()


def _stopped() -> Exception:
    return exception.Cancelled(reason='nova-compute was stopped')

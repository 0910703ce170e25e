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

"""The guard of the scratch file: the guest goes first, the snapshot second.

When QEMU finds no room for the old contents of what the guest overwrites, it
is the guest's write that fails: libvirt gives no other choice for a backup
job. So the job is ended before that, and if QEMU was quicker and has paused
the guest, the guest is resumed: its write is then made again and succeeds.
"""

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import os
import threading

from oslo_log import log as logging
from oslo_utils import units

from nova_snapdriver.capture import readahead
from nova_snapdriver.capture import space
from nova_snapdriver.capture import workspace
from nova_snapdriver import exception
from nova_snapdriver import guest as snap_guest

LOG = logging.getLogger(__name__)

# A guest that QEMU has paused waits no longer than this and one look. The
# event for it would need the event loop of Nova's Host and come no sooner
# than it matters.
_POLL_SECONDS = 0.5

# By default the disk is read ahead of the upload when the scratch file has
# taken this share of what it may take: the rest is for what comes meanwhile.
_HURRY_SHARE = 4


class Guard:
    """Watches one capture in a thread, from its start to its end.

    :param end_job: ends the capture's job, for the guest's sake; idempotent
    :param ahead: to end the job as soon as the disk has been read, if the
        guest overwrites much; none where it is as long as the upload
    """

    def __init__(self, guest: snap_guest.Guest, place: workspace.Workspace,
                 limits: space.Limits, end_job: Callable[[], None],
                 ahead: readahead.ReadAhead | None = None) -> None:
        self._guest = guest
        self._place = place
        self._limits = limits
        self._end_job = end_job
        self._ahead = ahead
        self._stopping = threading.Event()
        # In eventlet mode a green one: it may call libvirt as all others do.
        self._thread = threading.Thread(target=self._watch, daemon=True)
        # A guest that stands still for an error of before is not for us.
        self._stopped_before = guest.stopped_by_io_error()
        self.reason: str | None = None

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Watch no more. The job has ended: what it has stopped goes on."""
        self._stopping.set()
        self._thread.join()
        self._resume()

    def _watch(self) -> None:
        while not self._stopping.wait(_POLL_SECONDS):
            try:
                reason = self._pressure()
                if reason:
                    self._relieve(reason)
                    return
                if self._ahead is not None and self._hurry(self._ahead):
                    return
            except Exception as ex:
                # To be looked at again; the guard must not die of it.
                LOG.warning('The scratch file cannot be watched: %s', ex,
                            instance=self._guest.instance)

    def _pressure(self) -> str | None:
        """Why the snapshot must give way; none if it need not."""
        if self._stopped():
            return 'QEMU had no room for it and stopped the guest'
        used = _allocated(self._place.path)
        if self._limits.limit and used > self._limits.limit:
            return ('the guest overwrote more than [snapdriver] scratch_limit,'
                    ' %d MiB' % (self._limits.limit // units.Mi))
        return space.shortage(self._place.path, self._limits)

    def _hurry(self, ahead: readahead.ReadAhead) -> bool:
        """End the job early if the guest needs it; whether that was done."""
        if not ahead.ordered:
            used = _allocated(self._place.path)
            if used <= _bearable(used, self._place.path, self._limits):
                return False
            LOG.info('The guest has overwritten %d MiB: its disk is read ahead'
                     ' of the upload', used // units.Mi,
                     instance=self._guest.instance)
            ahead.order()
        if not ahead.claim_end():
            return False
        self._end_job()
        self._resume()
        LOG.info('The disk has been read: its capture has ended, the upload '
                 'goes on', instance=self._guest.instance)
        return True

    def _relieve(self, reason: str) -> None:
        LOG.error('The snapshot is given up for the sake of the guest: %s',
                  reason, instance=self._guest.instance)
        self.reason = reason
        try:
            self._end_job()
        finally:
            self._resume()

    def _stopped(self) -> bool:
        return not self._stopped_before and self._guest.stopped_by_io_error()

    def _resume(self) -> None:
        if self._stopped():
            self._guest.resume()
            LOG.warning('Resumed the guest, which QEMU had stopped for want '
                        'of room for the snapshot',
                        instance=self._guest.instance)


@contextlib.contextmanager
def guarded(guest: snap_guest.Guest, place: workspace.Workspace,
            limits: space.Limits, end_job: Callable[[], None],
            ahead: readahead.ReadAhead | None = None) -> Iterator[None]:
    """Guard a capture; to be left when its job has ended.

    :raises ScratchExhausted: instead of whatever failed because of it
    """
    guard = Guard(guest, place, limits, end_job, ahead)
    guard.start()
    try:
        try:
            yield
        finally:
            guard.stop()
    except Exception as ex:
        if guard.reason is None:
            raise
        raise exception.ScratchExhausted(reason=guard.reason) from ex


def _bearable(used: int, directory: str, limits: space.Limits) -> int:
    """Bytes that the scratch file may take without a hurry."""
    left = max(0, space.free(directory) - limits.reserve)
    if limits.limit:
        left = min(left, max(0, limits.limit - used))
    share = (used + left) // _HURRY_SHARE
    return min(limits.hurry, share) if limits.hurry else share


def _allocated(directory: str) -> int:
    """Bytes that the files of a directory take on the disk."""
    total = 0
    with os.scandir(directory) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                found = entry.stat(follow_symlinks=False)
                total += found.st_blocks * workspace.BLOCK_BYTES
    return total

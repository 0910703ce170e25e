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

"""Guard the guest against a scratch file that finds no space.

When QEMU cannot copy to the scratch file what the guest is about to overwrite,
it fails the guest's write: libvirt has no other policy for a backup job. So
the job is ended before that. If QEMU was faster and has paused the guest, the
guest is resumed when the job has ended: the write is repeated and succeeds.
"""

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import os
import threading

from nova import exception as nova_exception
from oslo_log import log as logging
from oslo_utils import units

from nova_snapdriver.capture import readahead
from nova_snapdriver.capture import request as capture_request
from nova_snapdriver.capture import space
from nova_snapdriver.capture import workspace
from nova_snapdriver import exception
from nova_snapdriver import journal
from nova_snapdriver import metrics

LOG = logging.getLogger(__name__)

# A guest that QEMU has paused waits about this long. Events would need the
# event loop of Nova's Host, for no gain that matters.
_POLL_SECONDS = 0.5

# By default the disk is read ahead of the upload when the scratch file has
# reached a quarter of its maximum: the rest is for what the guest overwrites
# while the disk is read.
_HURRY_SHARE = 4

# All guards that watch: their captures share the file system, and its reserve.
_watching: 'set[Guard]' = set()


class Guard:
    """Watches one capture in a thread, from its start to its end.

    :param request: of the capture
    :param end_job: ends the capture's job; idempotent
    :param ahead: to read ahead of the upload if the guest overwrites much, so
        that the job can end once the disk has been read; ``None`` if not
    """

    def __init__(self, request: capture_request.Request,
                 end_job: Callable[[], None],
                 ahead: readahead.ReadAhead | None = None) -> None:
        self._guest = request.guest
        self._place = request.place
        self._limits = request.limits
        self._notes = request.notes
        self._meter = request.meter
        self._end_job = end_job
        self._ahead = ahead
        self._stopping = threading.Event()
        # In eventlet mode a green one, so that it may call libvirt.
        self._thread = threading.Thread(target=self._watch, daemon=True)
        # A guest that was stopped by an earlier error must stay so.
        self._stopped_before = self._guest.stopped_by_io_error()
        #: Bytes that the capture uses, when last looked at.
        self.used = 0
        self.reason: str | None = None

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Stop watching, and resume the guest if the job has stopped it.

        To be called when the job has ended. Never raises.
        """
        self._stopping.set()
        self._thread.join()
        try:
            self._resume()
        except nova_exception.InstanceNotFound:
            pass                        # and nothing is paused
        except Exception as ex:
            self._notes.keep()
            LOG.error('The guest may be paused: %s', ex,
                      instance=self._guest.instance)

    def _watch(self) -> None:
        _watching.add(self)
        try:
            self._watch_on()
        finally:
            _watching.discard(self)

    def _watch_on(self) -> None:
        while not self._stopping.wait(_POLL_SECONDS):
            try:
                reason = self._pressure()
                if reason:
                    self._relieve(reason)
                    return
                if self._ahead is not None and self._hurry(self._ahead):
                    return
            except Exception as ex:
                # Checked again next time; the guard must survive it.
                LOG.warning('The scratch file cannot be watched: %s', ex,
                            instance=self._guest.instance)

    def _pressure(self) -> str | None:
        """Why the snapshot has to be aborted; ``None`` if it has not."""
        if self._stopped():
            return ('QEMU had no space for the scratch file and stopped '
                    'the guest')
        unnamed = 0 if self._ahead is None else self._ahead.allocated()
        self.used = _allocated(self._place.path) + unnamed
        self._meter.note_scratch(self.used)
        if self._limits.limit and self.used > self._limits.limit:
            return ('the guest overwrote more than [snapdriver] scratch_limit,'
                    ' %d MiB' % (self._limits.limit // units.Mi))
        return self._shortage()

    def _shortage(self) -> str | None:
        """Why this capture is the one to end, if the reserve is touched.

        The one that uses most ends first, and may be enough. No other waits
        for that once half of the reserve is gone.
        """
        reason = space.shortage(self._place.path, self._limits)
        most = max((one.used for one in tuple(_watching)), default=0)
        if reason and self.used < most and (
                space.free(self._place.path) >= self._limits.reserve // 2):
            return None
        return reason

    def _hurry(self, ahead: readahead.ReadAhead) -> bool:
        """Read ahead if the guest overwrites much; whether the job ended."""
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
        self._end_job_and_resume()
        LOG.info('The disk has been read: its capture has ended, the upload '
                 'goes on', instance=self._guest.instance)
        return True

    def _relieve(self, reason: str) -> None:
        LOG.error('Aborting the snapshot to keep the guest running: %s',
                  reason, instance=self._guest.instance)
        self.reason = reason
        self._end_job_and_resume()

    def _end_job_and_resume(self) -> None:
        self._note_pause()
        try:
            self._end_job()
        finally:
            self._resume()

    @contextlib.contextmanager
    def noted(self) -> Iterator[None]:
        """Note whether the job has stopped the guest, before the job ends."""
        try:
            yield
        finally:
            self._note_pause()

    def _note_pause(self) -> None:
        """Once the job is gone, nothing else tells that it was the cause.

        Never raises: the job has to end, and the guest to go on, also where
        the journal has no space either.
        """
        try:
            if self._notes.marked(journal.Mark.PAUSED) is None and (
                    self._stopped()):
                self._notes.mark(journal.Mark.PAUSED, self._guest.run_id())
        except Exception as ex:
            LOG.warning('Cannot note that the guest is paused: %s', ex,
                        instance=self._guest.instance)

    def _stopped(self) -> bool:
        return not self._stopped_before and self._guest.stopped_by_io_error()

    def _resume(self) -> None:
        if self._stopped():
            self._note_pause()          # or it stopped only just now
            self._guest.resume()
            self._notes.unmark(journal.Mark.PAUSED)
            LOG.warning('Resumed the guest, which QEMU had paused for lack of '
                        'space in [snapdriver] scratch_directory',
                        instance=self._guest.instance)


@contextlib.contextmanager
def guarded(request: capture_request.Request, end_job: Callable[[], None],
            ahead: readahead.ReadAhead | None = None) -> Iterator[Guard]:
    """Guard a capture. The block must end after its job has ended.

    :raises ScratchExhausted: the guard ended the job; instead of the error
        that this caused in the block
    """
    guard = Guard(request, end_job, ahead)
    guard.start()
    try:
        try:
            yield guard
        finally:
            guard.stop()
    except Exception as ex:
        if guard.reason is None:
            raise
        raise exception.ScratchExhausted(reason=guard.reason) from ex


@contextlib.contextmanager
def measured(place: workspace.Workspace,
             meter: metrics.Meter) -> Iterator[None]:
    """Note what a capture has used, at the end of the block.

    The scratch file of a backup job grows until then, and a guard may not have
    looked at it for a while.
    """
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            meter.note_scratch(_allocated(place.path))


def _bearable(used: int, directory: str, limits: space.Limits) -> int:
    """The size of the scratch file, in bytes, from which to read ahead."""
    left = max(0, space.free(directory) - limits.reserve)
    if limits.limit:
        left = min(left, max(0, limits.limit - used))
    share = (used + left) // _HURRY_SHARE
    return min(limits.hurry, share) if limits.hurry else share


def _allocated(directory: str) -> int:
    """Bytes allocated on the disk by the files of a directory."""
    total = 0
    with os.scandir(directory) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                found = entry.stat(follow_symlinks=False)
                total += found.st_blocks * workspace.BLOCK_BYTES
    return total

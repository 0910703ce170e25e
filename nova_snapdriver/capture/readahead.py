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

"""Let the stream process read ahead, so that a backup job can end early.

The guard of the scratch file orders the stream process to read ahead of the
upload; the process reports when it has read the whole disk. Then the job can
end, long before the upload does. Both use pipes: the guard may be a green
thread and the upload a native one, and Python's locks do not work between
these.
"""

import array
import dataclasses
import fcntl
import os
import stat
import termios
import types
from typing import Any
from typing import Self

from oslo_utils import units

from nova_snapdriver.capture import workspace
from nova_snapdriver import exception
from nova_snapdriver.stream import readahead as stream_readahead

_MESSAGES_BYTES = 4096


@dataclasses.dataclass(frozen=True)
class Spool:
    """Where the stream process stores what it reads ahead.

    :param directory: private to the snapshot
    :param limit: bytes; negative means a share of the free space
    :param reserve: bytes to keep free in the directory's file system
    """

    directory: str
    limit: int
    reserve: int


def spool(conf: Any, directory: str) -> Spool | None:
    """Read nova.conf; ``None`` if reading ahead is disabled."""
    limit, most = (conf.snapdriver.read_ahead_limit,
                   conf.snapdriver.scratch_limit)
    if not limit:
        return None
    if most:
        # Of all that the snapshot may use, as of a file system else.
        limit = (most // stream_readahead.SHARE if limit < 0
                 else min(limit, most // stream_readahead.MOST))
    return Spool(directory, limit * units.Mi,
                 conf.snapdriver.scratch_reserve * units.Mi)


class ReadAhead:
    """The pipes to the stream processes of one snapshot: a context manager.

    They stay open until its end, so that no thread uses a descriptor number
    that already means another file.
    """

    def __init__(self, spool: Spool) -> None:
        self.spool = spool
        # The order stays in this pipe, for a process that starts later.
        self._ordering, self._order = os.pipe()
        self._told, self._telling = os.pipe()
        self._descriptors = [self._ordering, self._order, self._told,
                             self._telling]
        # Process IDs: of the latest, and of the one that has read the disk.
        self._reader: int | None = None
        self._finished: int | None = None
        self.ordered = False
        self.ended = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, exc_type: type[BaseException] | None,
                 exc: BaseException | None,
                 traceback: types.TracebackType | None) -> None:
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors = []

    # Called by the guard

    def order(self) -> None:
        """Order to read the disk at full speed from now on. Idempotent."""
        if not self.ordered:
            self.ordered = True
            os.write(self._order, b'\n')

    def claim_end(self) -> bool:
        """Whether the capture may end, as the whole disk has been read.

        If so, no other process may begin to read.
        """
        if self.ended:
            return True
        self._listen()
        reader = self._finished
        if reader is None or reader != self._reader:
            return False
        # Set, then check, while begin() does so in the opposite order: if both
        # run at the same time, at least one of them sees the other.
        self.ended = True
        self.ended = reader == self._reader
        return self.ended

    def allocated(self) -> int:
        """Bytes allocated by what is read ahead; 0 if that is not to be seen.

        Its file has no name: it is looked for among those that the stream
        process has open.
        """
        try:
            with os.scandir('/proc/%d/fd' % (self._reader or 0)) as entries:
                return sum(_allocated(entry.path) for entry in entries)
        except OSError:
            return 0                    # the process has ended

    def _listen(self) -> None:
        waiting = array.array('i', [0])
        # Unlike a read, it does not block, with eventlet or without.
        fcntl.ioctl(self._told, termios.FIONREAD, waiting)
        if waiting[0]:
            self._finished = int(
                os.read(self._told, _MESSAGES_BYTES).split()[-1])

    # Called by the stream process's owner

    def begin(self) -> None:
        """Note that a process is about to read.

        :raises EndedEarly: the capture has ended
        """
        self._reader = None
        if self.ended:
            raise exception.EndedEarly()

    def begun(self, pid: int) -> None:
        """Note the process ID, once it is known."""
        self._reader = pid

    @property
    def input(self) -> int:
        """File descriptor for the standard input of the process."""
        return self._ordering

    @property
    def inherited(self) -> tuple[int, ...]:
        """File descriptors that the process inherits besides standard ones."""
        return (self.captured,)

    @property
    def captured(self) -> int:
        """Where the process writes its number once the disk is read."""
        return self._telling


def _allocated(path: str) -> int:
    """Bytes allocated by an open file without a name; 0 for all others."""
    try:
        found = os.stat(path)
    except OSError:
        return 0                        # it was closed
    unnamed = stat.S_ISREG(found.st_mode) and not found.st_nlink
    return found.st_blocks * workspace.BLOCK_BYTES if unnamed else 0

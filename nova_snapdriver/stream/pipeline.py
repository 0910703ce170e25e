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

"""Read an export ahead, in bounded memory, and write it to a pipe."""

import collections
from collections.abc import Callable
from collections.abc import Iterator
import dataclasses
import hashlib
import os
import queue
import select
import threading
import types
from typing import Protocol
from typing import Self

from nova_snapdriver.stream import layout
from nova_snapdriver.stream import nbd
from nova_snapdriver.stream import readahead
from oslo_utils import units

# Measured: 256 KiB to 1 MiB a request and 8 to 16 of them in flight beat both
# smaller and larger ones. The buffers are made once and used again: with a new
# one for each request, throughput falls to a half or a third.
REQUEST_SIZE = 512 * units.Ki
BUFFERS = 16

# Buffers of a writer that is given small pieces: one is filled, the others are
# hashed and written meanwhile.
_FILLED = 8

_ZEROS = readahead.ZEROS


class Source(Protocol):
    """What a :class:`Reader` reads; see :class:`nbd.Client`."""

    def read(self, buffer: memoryview, offset: int,
             done: Callable[[int], None]) -> None:
        """Request a range."""

    def wait(self) -> None:
        """Let requests make progress."""


@dataclasses.dataclass
class Block:
    """Bytes of the image, or repeated ones.

    :param buffer: to be returned once they are written; None if they are not
        in a buffer
    :param offset: where they are on the disk, if they are read from it
    :param error: errno of the read, 0 if it succeeded; None until it is done
    """

    content: memoryview
    repeat: int = 1
    buffer: memoryview | None = None
    offset: int = 0
    error: int | None = 0

    def done(self, error: int) -> None:
        self.error = error


def zeros(length: int) -> Iterator[Block]:
    """Blocks of so many zero bytes."""
    repeat, rest = divmod(length, len(_ZEROS))
    if repeat:
        yield Block(_ZEROS, repeat)
    if rest:
        yield Block(_ZEROS[:rest])


class Buffers(Protocol):
    """A pool of buffers."""

    def get(self, block: bool) -> memoryview:
        """Take a free buffer.

        :raises queue.Empty: there is none, and ``block`` is false
        """

    def put(self, buffer: memoryview) -> None:
        """Return a buffer."""


class Sink(Protocol):
    """What takes a reader's blocks, and returns their buffers.

    Only a :class:`Writer` is given other blocks than those of the disk.
    """

    @property
    def free(self) -> Buffers:
        """The buffers that are not in use."""

    def put(self, block: Block) -> None:
        """Take the next block."""

    def check(self) -> None:
        """:raises PipeClosed: the reader of the image is gone"""


class PipeClosed(Exception):
    """The reader of the image is gone."""


class _NoHash:
    """In place of a hash that is not compared: it takes most of the CPU."""

    def update(self, content: memoryview) -> None:
        pass

    def hexdigest(self) -> str:
        return ''


class Writer:
    """Hashes blocks and writes them to a pipe, in a thread of its own.

    :param pipe: file descriptor, blocking
    :param algorithm: name of a hash of hashlib; None for no hash
    :param outlet: writes to the pipe instead, and can run ahead of its reader
    """

    def __init__(self, pipe: int, algorithm: str | None,
                 outlet: readahead.Outlet | None = None) -> None:
        self._outlet = outlet
        self._pipe = pipe
        self._hash = hashlib.new(algorithm) if algorithm else _NoHash()
        self._blocks: queue.SimpleQueue[Block | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.free: Buffers = queue.SimpleQueue[memoryview]()
        self.error: OSError | None = None
        self.written = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, exc_type: type[BaseException] | None,
                 exc: BaseException | None,
                 traceback: types.TracebackType | None) -> None:
        # After an error the thread may be stuck in a write to a full pipe: it
        # is a daemon thread, and the process ends with the error.
        self._blocks.put(None)
        if exc is None:
            self._thread.join()
            self.check()

    @property
    def digest(self) -> str:
        """The hash of all that was written, in hex, once closed."""
        return self._hash.hexdigest()

    def put(self, block: Block) -> None:
        self._blocks.put(block)

    def check(self) -> None:
        """:raises PipeClosed: a write failed, or the other end is closed"""
        if self.error is not None:
            raise PipeClosed('write failed: %s' % self.error)
        poller = select.poll()
        poller.register(self._pipe, 0)
        if any(event & (select.POLLERR | select.POLLNVAL)
               for _, event in poller.poll(0)):
            raise PipeClosed('the reader closed the pipe')

    def _run(self) -> None:
        while (block := self._blocks.get()) is not None:
            if self.error is None:
                self._write(block)
            if block.buffer is not None:
                self.free.put(block.buffer)
        if self._outlet is not None and self.error is None:
            self._close(self._outlet)

    def _close(self, outlet: readahead.Outlet) -> None:
        try:
            outlet.close()
        except OSError as ex:
            self.error = ex

    def _write(self, block: Block) -> None:
        try:
            for _ in range(block.repeat):
                self._hash.update(block.content)
                self._write_all(block.content)
        except OSError as ex:
            self.error = ex

    def _write_all(self, content: memoryview) -> None:
        if self._outlet is not None:
            self._outlet.write(content)
            self.written += len(content)
            return
        while content:
            count = os.write(self._pipe, content)
            self.written += count
            content = content[count:]


class Filler:
    """Collects small pieces in a writer's own buffers.

    So they need no memory beyond these, and leave in few large writes.
    """

    def __init__(self, writer: Writer) -> None:
        for _ in range(_FILLED):
            writer.free.put(memoryview(bytearray(REQUEST_SIZE)))
        self._writer = writer
        self._buffer: memoryview | None = None
        self._used = 0

    def add(self, content: memoryview) -> None:
        """:raises PipeClosed: the reader of the image is gone"""
        while content:
            if self._buffer is None:
                self._buffer = self._writer.free.get(True)
            piece = content[:len(self._buffer) - self._used]
            self._buffer[self._used:self._used + len(piece)] = piece
            self._used += len(piece)
            content = content[len(piece):]
            if self._used == len(self._buffer):
                self.flush()

    def zeros(self, length: int) -> None:
        """Add zero bytes, which take no buffer.

        :raises PipeClosed: the reader of the image is gone
        """
        self.flush()
        for block in zeros(length):
            self._writer.put(block)

    def flush(self) -> None:
        """Give the writer what is collected.

        :raises PipeClosed: the reader of the image is gone
        """
        self._writer.check()
        if self._buffer is not None:
            self._writer.put(
                Block(self._buffer[:self._used], 1, self._buffer))
        self._buffer, self._used = None, 0


class Reader:
    """Reads a layout's ranges ahead and hands blocks to a writer in order.

    Memory is ``BUFFERS`` × ``REQUEST_SIZE``, whatever the disk: what is in
    flight and what the writer holds share the same buffers.
    """

    def __init__(self, source: Source, writer: Sink) -> None:
        self._source = source
        self._writer = writer
        self._window: collections.deque[Block] = collections.deque()
        for _ in range(BUFFERS):
            writer.free.put(memoryview(bytearray(REQUEST_SIZE)))

    def run(self, segments: Iterator[layout.Segment]) -> None:
        """Send all segments.

        :raises ExportError: the source failed
        :raises PipeClosed: the reader of the image is gone
        """
        for segment in segments:
            if isinstance(segment, layout.Read):
                self._read(segment)
            elif isinstance(segment, layout.Zeros):
                self._zeros(segment.length)
            else:
                self._copy(memoryview(segment))
            self._hand_over()
        while self._window:
            self._wait()

    def _read(self, segment: layout.Read) -> None:
        end = segment.offset + segment.length
        for offset in range(segment.offset, end, REQUEST_SIZE):
            buffer = self._buffer()
            content = buffer[:min(REQUEST_SIZE, end - offset)]
            block = Block(content, 1, buffer, offset, None)
            self._window.append(block)
            self._source.read(content, offset, block.done)

    def _copy(self, content: memoryview) -> None:
        # By way of the buffers, which are bounded: the tables of a large disk
        # would pile up in memory while the pipe's reader is slow.
        for at in range(0, len(content), REQUEST_SIZE):
            piece, buffer = content[at:at + REQUEST_SIZE], self._buffer()
            buffer[:len(piece)] = piece
            self._window.append(Block(buffer[:len(piece)], 1, buffer))

    def _zeros(self, length: int) -> None:
        self._window.extend(zeros(length))

    def _buffer(self) -> memoryview:
        while True:
            self._hand_over()
            try:
                # With no read in flight, the writer holds all of them.
                return self._writer.free.get(block=not self._window)
            except queue.Empty:
                self._wait()

    def _wait(self) -> None:
        self._source.wait()
        self._hand_over()

    def _hand_over(self) -> None:
        """Give the writer what has been read, as far as it is in order."""
        self._writer.check()
        while self._window and self._window[0].error is not None:
            block = self._window.popleft()
            if block.error:
                raise nbd.ExportError('read at %d failed: %s' % (
                    block.offset, os.strerror(block.error)))
            self._writer.put(block)

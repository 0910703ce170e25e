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

"""From an export to a pipe: read ahead, in order, with a bound on memory."""

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
from nova_snapdriver.stream import spool
from oslo_utils import units

# Measured: 256 KiB to 1 MiB a request and 8 to 16 of them in flight beat both
# smaller and larger ones. The buffers are made once and used again: a fresh
# one for each request costs two to three times the throughput.
REQUEST_SIZE = 512 * units.Ki
BUFFERS = 16

_ZEROS = spool.ZEROS


class Source(Protocol):
    """What the pipeline reads from, see :class:`nbd.Client`."""

    def read(self, buffer: memoryview, offset: int,
             done: Callable[[int], None]) -> None:
        """Ask for a range."""

    def wait(self) -> None:
        """Let requests make progress."""


@dataclasses.dataclass
class _Block:
    """Bytes of the image, in their place in the order."""

    content: memoryview
    repeat: int = 1
    buffer: memoryview | None = None
    offset: int = 0
    error: int | None = 0               # none while it is being read

    def done(self, error: int) -> None:
        self.error = error


class PipeClosed(Exception):
    """Nobody reads the image any more."""


class Writer:
    """Hashes blocks and writes them to a pipe, in a thread of its own.

    :param pipe: file descriptor, blocking
    :param algorithm: name of a hash of hashlib
    :param outlet: of the pipe, if there is more to it than to write to it
    """

    def __init__(self, pipe: int, algorithm: str,
                 outlet: spool.Outlet | None = None) -> None:
        self._outlet = outlet
        self._pipe = pipe
        self._hash = hashlib.new(algorithm)
        self._blocks: queue.SimpleQueue[_Block | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.free: queue.SimpleQueue[memoryview] = queue.SimpleQueue()
        self.error: OSError | None = None
        self.written = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, exc_type: type[BaseException] | None,
                 exc: BaseException | None,
                 traceback: types.TracebackType | None) -> None:
        # After an error the thread may sit in a write to a pipe that is full:
        # it is a daemon, and the process ends with the error.
        self._blocks.put(None)
        if exc is None:
            self._thread.join()
            self.check()

    @property
    def digest(self) -> str:
        """The hash of all that was written, in hex, once closed."""
        return self._hash.hexdigest()

    def put(self, block: _Block) -> None:
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

    def _close(self, outlet: spool.Outlet) -> None:
        try:
            outlet.close()
        except OSError as ex:
            self.error = ex

    def _write(self, block: _Block) -> None:
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


class Reader:
    """Reads a layout's ranges ahead and hands blocks to a writer in order.

    Memory is ``BUFFERS`` × ``REQUEST_SIZE``, whatever the disk: what is in
    flight and what the writer holds share the same buffers.
    """

    def __init__(self, source: Source, writer: Writer) -> None:
        self._source = source
        self._writer = writer
        self._window: collections.deque[_Block] = collections.deque()
        for _ in range(BUFFERS):
            writer.free.put(memoryview(bytearray(REQUEST_SIZE)))

    def run(self, segments: Iterator[layout.Segment]) -> None:
        """Send all segments.

        :raises ExportError: the source failed
        :raises PipeClosed: nobody reads the image any more
        """
        for segment in segments:
            if isinstance(segment, layout.Read):
                self._read(segment)
            elif isinstance(segment, layout.Zeros):
                self._zeros(segment.length)
            else:
                self._window.append(_Block(memoryview(segment)))
            self._hand_over()
        while self._window:
            self._wait()

    def _read(self, segment: layout.Read) -> None:
        end = segment.offset + segment.length
        for offset in range(segment.offset, end, REQUEST_SIZE):
            buffer = self._buffer()
            content = buffer[:min(REQUEST_SIZE, end - offset)]
            block = _Block(content, 1, buffer, offset, None)
            self._window.append(block)
            self._source.read(content, offset, block.done)

    def _zeros(self, length: int) -> None:
        repeat, rest = divmod(length, len(_ZEROS))
        if repeat:
            self._window.append(_Block(_ZEROS, repeat))
        if rest:
            self._window.append(_Block(_ZEROS[:rest]))

    def _buffer(self) -> memoryview:
        while True:
            self._hand_over()
            try:
                # With nothing in flight it is the writer that has them all.
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

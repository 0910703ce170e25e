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

"""Compress clusters in several threads, in the order of the disk."""

import collections
from collections.abc import Callable
from collections.abc import Iterator
from concurrent import futures
import queue
import threading
import types
from typing import Self

from nova_snapdriver.stream import codec as stream_codec
from nova_snapdriver.stream import extents
from nova_snapdriver.stream import pipeline

# To save less than a page is not worth the time that each reader of the image
# spends on the cluster.
_MIN_SAVED = 4096
MAX_PACKED = extents.CLUSTER_SIZE - _MIN_SAVED

# One NBD connection does not feed more.
MAX_THREADS = pipeline.BUFFERS

# A bytearray, and on the left: it compares itself with a memoryview by
# memcmp(); bytes, and the memoryview itself, go byte by byte.
_ZEROS = bytearray(extents.CLUSTER_SIZE)

# A compressed cluster, or one of these: all zeros, or not worth compressing.
Packed = bytes | None
ZEROS = None
PLAIN = b''


class Compressor:
    """A sink that compresses what a :class:`pipeline.Reader` reads.

    It holds no more than the reader's buffers: each is free again when the
    clusters in it have been given on.

    :param codec: a name of codec.COMPRESSORS; None to look for zeros only
    :param give: called with a block and the compressed clusters in it, in the
        order of the disk
    :param check: raises if the image is not wanted any more
    :param harder_from: number of the block from which on it takes more time
        for a better ratio; None for no such block
    """

    def __init__(self, codec: str | None, threads: int,
                 give: Callable[[pipeline.Block, list[Packed]], None],
                 check: Callable[[], None],
                 harder_from: int | None = None) -> None:
        self._codec = codec
        self._give = give
        self._put = self._given = 0     # blocks
        self.harder_from = harder_from
        self.check = check
        self._local = threading.local()
        self._pool = futures.ThreadPoolExecutor(min(threads, MAX_THREADS))
        self._blocks: collections.deque[
            tuple[pipeline.Block, futures.Future[list[Packed]]]] = (
                collections.deque())
        self._buffers: collections.deque[memoryview] = collections.deque()
        self.free = _Free(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, exc_type: type[BaseException] | None,
                 exc: BaseException | None,
                 traceback: types.TracebackType | None) -> None:
        try:
            if exc is None:
                self.drain()
        finally:
            self._pool.shutdown(cancel_futures=True)

    def put(self, block: pipeline.Block) -> None:
        harder = (self.harder_from is not None and
                  self._put >= self.harder_from)
        self._put += 1
        self._blocks.append(
            (block, self._pool.submit(self._pack, block.content, harder)))

    def harder(self) -> None:
        """Take more time for a better ratio, from a block on.

        From one that cannot have been read yet, so that the image does not
        depend on how fast that is.
        """
        if self.harder_from is None:
            self.harder_from = self._given + pipeline.BUFFERS

    def drain(self) -> None:
        """Give on all blocks."""
        while self._blocks:
            self._next()

    def _next(self) -> None:
        block, packing = self._blocks.popleft()
        self._give(block, packing.result())
        self._given += 1
        assert block.buffer is not None
        self._buffers.append(block.buffer)

    def buffer(self, wait: bool) -> memoryview:
        """A free buffer, after giving on what is compressed.

        :param wait: wait for the first block if no buffer is free
        :raises queue.Empty: no buffer is free, and it does not wait
        """
        while self._blocks and self._blocks[0][1].done():
            self._next()
        if not self._buffers:
            if not wait:
                raise queue.Empty
            self._next()
        return self._buffers.popleft()

    def add(self, buffer: memoryview) -> None:
        self._buffers.append(buffer)

    def _pack(self, content: memoryview, harder: bool) -> list[Packed]:
        compress = self._compressor(harder)
        return [_packed(cluster, compress) for cluster in clusters(content)]

    def _compressor(self, harder: bool) -> stream_codec.Compress | None:
        """A compressor of this thread; None to look for zeros only."""
        if self._codec is None:
            return None
        name = 'harder' if harder else 'usual'
        if not hasattr(self._local, name):
            setattr(self._local, name,
                    stream_codec.COMPRESSORS[self._codec](harder))
        found: stream_codec.Compress = getattr(self._local, name)
        return found


class _Free:
    """The free buffers of a compressor, as a reader takes them."""

    def __init__(self, compressor: Compressor) -> None:
        self._compressor = compressor

    def get(self, block: bool) -> memoryview:
        return self._compressor.buffer(block)

    def put(self, buffer: memoryview) -> None:
        self._compressor.add(buffer)


def clusters(content: memoryview) -> Iterator[memoryview]:
    """The clusters of a block; a partial one at the disk's end is padded."""
    for number in range(-(-len(content) // extents.CLUSTER_SIZE)):
        yield cluster(content, number)


def cluster(content: memoryview, number: int) -> memoryview:
    """One cluster of a block."""
    at = number * extents.CLUSTER_SIZE
    found = content[at:at + extents.CLUSTER_SIZE]
    short = extents.CLUSTER_SIZE - len(found)
    return memoryview(bytes(found) + bytes(short)) if short else found


def _packed(cluster: memoryview,
            compress: stream_codec.Compress | None) -> Packed:
    if _ZEROS == cluster:
        return ZEROS
    if compress is None:
        return PLAIN
    packed = compress(cluster)
    return packed if len(packed) <= MAX_PACKED else PLAIN

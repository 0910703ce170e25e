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

"""Write the data of a disk into a new image in Ceph, through librbd.

The image is as Glance's own store makes it: of the cluster's default features
and objects of 8 MiB, with a protected snapshot. Only data are written, in
pieces that never cross an object, and several at a time.
"""

import collections
from collections.abc import Callable
from collections.abc import Iterator
from concurrent import futures
import contextlib
import dataclasses
import hashlib
import queue
import types
from typing import Any
from typing import Self

from nova_snapdriver.stream import pipeline
from oslo_utils import units

SNAPSHOT = 'snap'

# Of an object: Glance's rbd_store_chunk_size is 8 MiB.
_ORDER = 23

# Half of an object, and a power of two. Measured: pieces of 4 MiB are written
# in two thirds of the time that those of 1 MiB and those of 8 MiB take.
_PIECE_BYTES = 4 * units.Mi
_PIECES = 8

_BLOCK_ZEROS = bytes(pipeline.REQUEST_SIZE)
_LAYERING = 1


class Refused(Exception):
    """Ceph failed, or does not answer."""


class Stalled(Refused):
    """Ceph does not answer: it is not waited for."""


class Differs(Exception):
    """Ceph holds something else than was written."""


@dataclasses.dataclass(frozen=True)
class Place:
    """Where the image is to be.

    :param user: of Ceph, without "client."; empty for librados' default
    :param conf: path of ceph.conf; empty for librados' default
    :param stall_seconds: how long Ceph may take for one piece
    """

    pool: str
    image: str
    user: str
    conf: str
    stall_seconds: float


@dataclasses.dataclass(frozen=True)
class _Piece:
    """What was written; with its hash, if it is to be read again."""

    offset: int
    length: int
    digest: bytes


class Image:
    """A new image; a context manager that closes it, and never removes it.

    :raises Refused: it cannot be made
    """

    def __init__(self, place: Place, size: int) -> None:
        # Imported late: only hosts that write into Ceph have the bindings,
        # which are not on PyPI.
        import rados
        import rbd
        self._rbd: Any = rbd
        self._errors = (rbd.Error, rados.Error, OSError)
        self._place = place
        self._open = contextlib.ExitStack()
        with self._refusing(), contextlib.ExitStack() as opened:
            cluster = rados.Rados(rados_id=place.user or None,
                                  conffile=place.conf)
            # What is written is not written again, and not read from here.
            cluster.conf_set('rbd_cache', 'false')
            cluster.connect(timeout=place.stall_seconds)
            opened.callback(cluster.shutdown)
            self._io = opened.enter_context(cluster.open_ioctx(place.pool))
            features = int(cluster.conf_get('rbd_default_features') or 0)
            rbd.RBD().create(self._io, place.image, size, _ORDER,
                             old_format=False,
                             features=features or _LAYERING)
            self._image = rbd.Image(self._io, place.image)
            opened.callback(self._image.close)
            self._open = opened.pop_all()

    @contextlib.contextmanager
    def _refusing(self) -> Iterator[None]:
        try:
            yield
        except self._errors as ex:
            raise Refused('Ceph, pool %s: %s' % (
                self._place.pool, str(ex) or repr(ex))) from ex

    def __enter__(self) -> Self:
        return self

    def __exit__(self, exc_type: type[BaseException] | None,
                 exc: BaseException | None,
                 traceback: types.TracebackType | None) -> None:
        if isinstance(exc, Stalled):
            return                      # closing it would wait, too
        # Who removes the image need not wait until Ceph misses its writer.
        with contextlib.suppress(*self._errors):
            self._open.close()

    def write(self, content: bytes, offset: int) -> None:
        """:raises Refused: it is not written"""
        with self._refusing():
            self._image.write(content, offset)

    def snapshot(self) -> None:
        """Make the protected snapshot, which servers are cloned from.

        :raises Refused: it is not made
        """
        with self._refusing():
            self._image.flush()
            self._image.create_snap(SNAPSHOT)
            self._image.protect_snap(SNAPSHOT)

    @contextlib.contextmanager
    def reading(self) -> Iterator[Callable[[int, int], bytes]]:
        """Give a function that reads from the snapshot: offset, length.

        :raises Refused: it cannot be opened, and nor can it be read
        """
        with self._refusing(), self._rbd.Image(
                self._io, self._place.image, snapshot=SNAPSHOT,
                read_only=True) as image:
            yield image.read


class Writer:
    """Takes the blocks of a disk, and writes those that are not zeros.

    :param hashing: keep a hash of each piece, for :meth:`verify`
    :param report: called with the offset up to which all is written
    """

    def __init__(self, image: Image, stall_seconds: float, hashing: bool,
                 report: Callable[[int], None]) -> None:
        self._image = image
        self._stall_seconds = stall_seconds
        self._hashing = hashing
        self._report = report
        self._blocks: list[bytes] = []
        self._begin = self._end = 0
        self._threads = futures.ThreadPoolExecutor(_PIECES)
        self._pending: collections.deque[futures.Future[_Piece]] = (
            collections.deque())
        self._written: list[_Piece] = []
        self.free: pipeline.Buffers = queue.SimpleQueue[memoryview]()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, exc_type: type[BaseException] | None,
                 exc: BaseException | None,
                 traceback: types.TracebackType | None) -> None:
        self._threads.shutdown(wait=not isinstance(exc, Stalled),
                               cancel_futures=True)

    def put(self, block: pipeline.Block) -> None:
        """Take the next block of the disk.

        :raises Refused: an earlier one could not be written
        """
        assert block.buffer is not None
        content = bytes(block.content)
        self.free.put(block.buffer)
        if content == _BLOCK_ZEROS[:len(content)]:
            return
        if (block.offset != self._end or
                block.offset % _PIECE_BYTES == 0):
            self._submit()
            self._begin = block.offset
        self._blocks.append(content)
        self._end = block.offset + len(content)

    def check(self) -> None:
        """Nothing to see: the heartbeat sees a reader that is gone."""

    def finish(self) -> None:
        """Wait until all is written.

        :raises Refused: it is not
        """
        self._submit()
        while self._pending:
            self._collect()

    def _submit(self) -> None:
        if not self._blocks:
            return
        while len(self._pending) >= _PIECES:
            self._collect()
        content, self._blocks = b''.join(self._blocks), []
        self._pending.append(self._threads.submit(
            self._write, content, self._begin))

    def _write(self, content: bytes, offset: int) -> _Piece:
        self._image.write(content, offset)
        return _Piece(offset, len(content), self._hash(content))

    def _hash(self, content: bytes) -> bytes:
        return hashlib.sha256(content).digest() if self._hashing else b''

    def _collect(self) -> None:
        piece = self._await(self._pending.popleft())
        if self._hashing:
            self._written.append(piece)
        self._report(piece.offset + piece.length)

    def _await(self, future: 'futures.Future[_Piece]') -> _Piece:
        try:
            return future.result(self._stall_seconds)
        except TimeoutError as ex:
            raise Stalled('Ceph does not answer for %d s' %
                          self._stall_seconds) from ex

    def verify(self) -> None:
        """Read each piece from the snapshot again, and compare its hash.

        :raises Differs: Ceph gives something else
        :raises Refused: Ceph does not give it
        """
        with self._image.reading() as read:
            def look(piece: _Piece) -> _Piece:
                if self._hash(read(piece.offset, piece.length)) != (
                        piece.digest):
                    raise Differs('the pool holds something else at %d than '
                                  'was written' % piece.offset)
                return piece

            for piece in self._written:
                if len(self._pending) >= _PIECES:
                    self._await(self._pending.popleft())
                self._pending.append(self._threads.submit(look, piece))
            while self._pending:
                self._await(self._pending.popleft())

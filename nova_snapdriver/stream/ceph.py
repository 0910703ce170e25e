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
pieces that never cross an object, and several at a time. Each is read again
once Ceph has it, and compared while the next ones are written.
"""

import collections
from collections.abc import Callable
from collections.abc import Iterator
from concurrent import futures
import contextlib
import dataclasses
import errno
import queue
import types
from typing import Any
from typing import Self

from nova_snapdriver.stream import pipeline
from oslo_utils import units

SNAPSHOT = 'snap'

# Of an object: Glance's rbd_store_chunk_size is 8 MiB.
_ORDER = 23

# Never across an object. What is written and what is read again of them is in
# memory at once.
_PIECE_BYTES = 2 * units.Mi
_PIECES = 6

# Half of the reader's buffers: with the others it reads on meanwhile.
_HELD_BLOCKS = pipeline.BUFFERS // 2

_BLOCK_ZEROS = bytes(pipeline.REQUEST_SIZE)
# Of a block, to see that it is not zeros without a copy of all of it.
_HEAD_BYTES = 4 * units.Ki
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


def limit(cluster: Any, seconds: int, connect_seconds: int) -> None:
    """Limit how long librados waits; by default that is for ever.

    Its Python binding ignores the argument of connect().

    :param cluster: a rados.Rados, not connected yet
    :param seconds: for one operation
    """
    for name in ('rados_osd_op_timeout', 'rados_mon_op_timeout'):
        cluster.conf_set(name, str(seconds))
    cluster.conf_set('client_mount_timeout', str(connect_seconds))


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
            # What is compared comes from an OSD, not from here.
            cluster.conf_set('rbd_cache', 'false')
            seconds = int(place.stall_seconds) or 1
            limit(cluster, seconds, seconds)
            cluster.connect()
            opened.callback(cluster.shutdown)
            self._io = opened.enter_context(cluster.open_ioctx(place.pool))
            # A full pool is an error, too, and not waited for.
            self._io.set_osdmap_full_try()
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
            late = abs(getattr(ex, 'errno', 0) or 0) == errno.ETIMEDOUT
            raise (Stalled if late else Refused)('Ceph, pool %s: %s' % (
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

    def read(self, offset: int, length: int) -> bytes:
        """:raises Refused: it cannot be read"""
        with self._refusing():
            return bytes(self._image.read(offset, length))

    def snapshot(self) -> None:
        """Make the protected snapshot, which servers are cloned from.

        :raises Refused: it is not made
        """
        with self._refusing():
            self._image.flush()
            self._image.create_snap(SNAPSHOT)
            self._image.protect_snap(SNAPSHOT)


class Writer:
    """Takes the blocks of a disk, and writes those that are not zeros.

    :param verify: read each piece again, and compare it
    :param report: called with the offset up to which all is written
    """

    def __init__(self, image: Image, stall_seconds: float, verify: bool,
                 report: Callable[[int], None]) -> None:
        self._image = image
        self._stall_seconds = stall_seconds
        self._verify = verify
        self._report = report
        # Of the next piece: what is gathered, and blocks still in buffers.
        self._content = b''
        self._blocks: list[pipeline.Block] = []
        self._begin = self._end = 0
        self._threads = futures.ThreadPoolExecutor(_PIECES)
        self._pending: collections.deque[futures.Future[int]] = (
            collections.deque())
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
        :raises Differs: Ceph gives something else than an earlier one
        """
        assert block.buffer is not None
        if _is_zeros(block.content):
            self.free.put(block.buffer)
            return
        if (block.offset != self._end or
                block.offset % _PIECE_BYTES == 0):
            self._submit()
            self._begin = block.offset
        self._blocks.append(block)
        self._end = block.offset + len(block.content)
        if len(self._blocks) == _HELD_BLOCKS:
            self._gather()

    def check(self) -> None:
        """Nothing to see: the heartbeat sees a reader that is gone."""

    def finish(self) -> None:
        """Wait until all is written.

        :raises Refused: it is not
        :raises Differs: Ceph gives something else
        """
        self._submit()
        while self._pending:
            self._collect()

    def _gather(self) -> None:
        """Copy blocks out of their buffers, which the reader needs."""
        self._content = b''.join(
            [self._content, *(block.content for block in self._blocks)])
        for block in self._blocks:
            assert block.buffer is not None
            self.free.put(block.buffer)
        self._blocks.clear()

    def _submit(self) -> None:
        self._gather()
        if not self._content:
            return
        while len(self._pending) >= _PIECES:
            self._collect()
        content, self._content = self._content, b''
        self._pending.append(self._threads.submit(
            self._write, content, self._begin))

    def _write(self, content: bytes, offset: int) -> int:
        """Write a piece, and return where it ends."""
        self._image.write(content, offset)
        if self._verify and (
                self._image.read(offset, len(content)) != content):
            raise Differs('the pool holds something else than was written, '
                          'between %d and %d' % (offset,
                                                 offset + len(content)))
        return offset + len(content)

    def _collect(self) -> None:
        try:
            self._report(self._pending.popleft().result(self._stall_seconds))
        except TimeoutError as ex:
            raise Stalled('Ceph does not answer for %d s' %
                          self._stall_seconds) from ex


def _is_zeros(content: memoryview) -> bool:
    head = content[:_HEAD_BYTES]
    return (bytes(head) == _BLOCK_ZEROS[:len(head)] and
            bytes(content) == _BLOCK_ZEROS[:len(content)])

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

"""A compressed qcow2 image, written from front to back.

Source of every field: docs/interop/qcow2 of QEMU's documentation. The parts of
:mod:`nova_snapdriver.stream.qcow2`, and one more at the end:

    … | L2 tables | plain clusters | compressed clusters, packed

A compressed cluster begins at any byte, right after the one before it, and may
cross the border of a host cluster: that has as many references as compressed
clusters with a byte in it.
"""

import array
from collections.abc import Iterator
import itertools

from nova_snapdriver.stream import extents
from nova_snapdriver.stream import layout
from nova_snapdriver.stream import qcow2

# An entry of a compressed cluster: this bit, no COPIED bit, the number of
# sectors that it reaches into beyond its first, and the place of its first
# byte. With clusters of 64 KiB the place has 54 bits.
_COMPRESSED = 1 << 62
_SECTORS_SHIFT = 62 - (qcow2.CLUSTER_BITS - 8)

# Set where the header has a field for the type of compression; without one the
# type is zlib.
_TYPE_IS_NOT_ZLIB = 1 << 3
_TYPE_FIELDS = {'zlib': b'', 'zstd': (1).to_bytes() + bytes(7)}


class CompressedLayout(qcow2.Qcow2Layout):
    """A compressed qcow2 image of a surveyed disk.

    ``segments()`` ends where the compressed clusters begin: ``packed`` bytes
    of them and ``padding`` zero bytes make it whole.

    :param codec: ``zlib`` or ``zstd``
    """

    def __init__(self, found: extents.SurveyedMap, codec: str) -> None:
        self._found = found
        self._type = _TYPE_FIELDS[codec]
        self._plain = found.sizes.count(0)
        self.packed = sum(found.sizes)
        # Programs that read the image read whole sectors.
        self.padding = -self.packed % qcow2.CLUSTER_SIZE
        stored = self._plain + qcow2.ceil_div(self.packed, qcow2.CLUSTER_SIZE)
        super().__init__(found.clusters, stored)
        self._packed_at = self._data_at + self._plain

    def _header(self, incompatible: int = 0, fields: bytes = b'') -> bytes:
        if self._type:
            incompatible |= _TYPE_IS_NOT_ZLIB
        return super()._header(incompatible, self._type + fields)

    def _refcount_blocks(self) -> Iterator[bytes]:
        counts = itertools.chain(itertools.repeat(1, self._packed_at),
                                 self._shares(), itertools.repeat(0))
        for _ in range(self._blocks):
            yield qcow2.big_endian(array.array('H', itertools.islice(
                counts, qcow2.REFCOUNTS_PER_BLOCK)))

    def _shares(self) -> Iterator[int]:
        """How many compressed clusters each of their host clusters holds."""
        count = at = 0
        for size in filter(None, self._found.sizes):
            at += size
            count += 1
            if at >= qcow2.CLUSTER_SIZE:
                yield count
                # What reaches over the border is in both.
                at -= qcow2.CLUSTER_SIZE
                count = 1 if at else 0
        if count:
            yield count

    def _entries(self) -> Iterator[int]:
        plain = self._data_at * qcow2.CLUSTER_SIZE | qcow2.COPIED
        packed = self._packed_at * qcow2.CLUSTER_SIZE
        for size in self._found.sizes:
            if size:
                yield _entry(packed, size)
                packed += size
            else:
                yield plain
                plain += qcow2.CLUSTER_SIZE

    def _plain_runs(self) -> Iterator[tuple[int, int]]:
        return self._found.runs(packed=False)

    def rest(self, count: int) -> Iterator[layout.Read]:
        """The ranges of all compressed clusters but the first ``count``."""
        size = self._map.disk_size
        for first, end in self._found.runs(packed=True):
            skipped = min(count, end - first)
            count -= skipped
            start = (first + skipped) * qcow2.CLUSTER_SIZE
            stop = min(end * qcow2.CLUSTER_SIZE, size)
            if start < stop:
                yield layout.Read(start, stop - start)


def _entry(offset: int, size: int) -> int:
    """The L2 entry of a compressed cluster, from its first byte's place."""
    last = offset + size - 1
    sectors = last // qcow2.SECTOR_SIZE - offset // qcow2.SECTOR_SIZE
    return _COMPRESSED | sectors << _SECTORS_SHIFT | offset

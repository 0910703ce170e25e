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

"""The qcow2 format with its tables behind the data.

Source of every field: docs/interop/qcow2 of QEMU's documentation. Only the
header has to name the places of two tables before the data are known, so these
are at a place that is predicted:

    header | data and L2 tables, as they come | gap |
        L1 | refcount table | refcount blocks

A compressed cluster begins at any byte, right after the one before it, and may
cross the border of a host cluster: that has as many references as compressed
clusters with a byte in it. Everything else has host clusters of its own. The
gap has none: its refcounts are 0.
"""

import array
from collections.abc import Iterator

from nova_snapdriver.stream import extents
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


class PackedLayout:
    """The parts of a qcow2 image around its data.

    :param codec: ``zlib`` or ``zstd``; None for plain clusters
    :param place: of the tables, in clusters from the start of the image
    """

    def __init__(self, clusters: extents.ClusterMap, codec: str | None,
                 place: int) -> None:
        self._type = _TYPE_FIELDS[codec or 'zlib']
        self.place = place
        self.l1_entries = qcow2.l1_entries(clusters)
        l1_clusters = qcow2.ceil_div(self.l1_entries, qcow2.ENTRIES_PER_TABLE)
        table, self._blocks = qcow2.refcount_clusters(place + l1_clusters)
        self._blocks_at = place + l1_clusters + table
        self.total = self._blocks_at + self._blocks
        self._header = qcow2.Header(
            qcow2.virtual_size(clusters), self.l1_entries, place,
            place + l1_clusters, table)

    @property
    def length(self) -> int:
        """The length of the whole image in bytes."""
        return self.total * qcow2.CLUSTER_SIZE

    def header(self) -> bytes:
        """The first cluster of the image."""
        return self._header.content(
            _TYPE_IS_NOT_ZLIB if self._type else 0, self._type)

    def tables(self, l1: 'array.array[int]',
               refcounts: 'array.array[int]') -> Iterator[bytes]:
        """What follows the gap.

        :param l1: the L1 table; it is swapped in place
        :param refcounts: of each cluster before the tables
        """
        yield qcow2.padded(qcow2.big_endian(l1))
        yield qcow2.padded(qcow2.big_endian(array.array('Q', range(
            self._blocks_at * qcow2.CLUSTER_SIZE, self.length,
            qcow2.CLUSTER_SIZE))))
        for block in range(self._blocks):
            yield self._refcount_block(
                block * qcow2.REFCOUNTS_PER_BLOCK, refcounts)

    def _refcount_block(self, first: int,
                        refcounts: 'array.array[int]') -> bytes:
        end = first + qcow2.REFCOUNTS_PER_BLOCK
        counts = refcounts[first:end]
        # The tables themselves: one reference each.
        counts.extend([1] * (min(end, self.total) - first - len(counts)))
        return qcow2.padded(qcow2.big_endian(counts))


def entry(offset: int, size: int) -> int:
    """The L2 entry of a compressed cluster, from its first byte's place."""
    last = offset + size - 1
    sectors = last // qcow2.SECTOR_SIZE - offset // qcow2.SECTOR_SIZE
    return _COMPRESSED | sectors << _SECTORS_SHIFT | offset

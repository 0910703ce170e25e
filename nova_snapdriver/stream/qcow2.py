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

"""The qcow2 format, version 3, written from front to back.

Source of every field: docs/interop/qcow2 of QEMU's documentation. All
metadata comes before the data, so that every offset is known up front:

    header | refcount table | refcount blocks | L1 | L2 tables | data

No backing file, no data file, no extended L2 entries (Glance's safety check
refuses them); clusters that read as zeros are not allocated.
"""

import array
from collections.abc import Iterator
import dataclasses
import itertools
import struct
import sys

from nova_snapdriver.stream import extents
from nova_snapdriver.stream import layout

CLUSTER_BITS = 16
CLUSTER_SIZE = 1 << CLUSTER_BITS
SECTOR_SIZE = 512

_MAGIC = 0x514649fb
_VERSION = 3
_HEADER_LENGTH = 104
_REFCOUNT_ORDER = 4
REFCOUNTS_PER_BLOCK = CLUSTER_SIZE * 8 >> _REFCOUNT_ORDER
ENTRIES_PER_TABLE = CLUSTER_SIZE // 8

# Set where an entry's cluster has a refcount of exactly one.
COPIED = 1 << 63

_HEADER = struct.Struct('>IIQIIQIIQQIIQQQQII')


def ceil_div(value: int, divisor: int) -> int:
    return -(-value // divisor)


def padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % CLUSTER_SIZE)


def big_endian(values: 'array.array[int]') -> bytes:
    """The values as bytes; an array may be swapped in place."""
    if sys.byteorder == 'little':
        values.byteswap()
    return values.tobytes()


def _offsets(first_cluster: int, count: int) -> range:
    """Table entries that point at consecutive clusters of the image."""
    start = first_cluster * CLUSTER_SIZE | COPIED
    return range(start, start + count * CLUSTER_SIZE, CLUSTER_SIZE)


def virtual_size(clusters: extents.ClusterMap) -> int:
    """Bytes of a disk: QEMU counts sectors, so none ends within one."""
    return ceil_div(clusters.disk_size, SECTOR_SIZE) * SECTOR_SIZE


def l1_entries(clusters: extents.ClusterMap) -> int:
    return max(1, ceil_div(clusters.clusters, ENTRIES_PER_TABLE))


def refcount_clusters(others: int) -> tuple[int, int]:
    """Clusters of the refcount table and of its blocks.

    :param others: clusters of all other parts of the image
    """
    blocks = table = 0
    while True:
        # Refcounts count their own clusters too: grow until they do.
        needed = ceil_div(others + blocks + table, REFCOUNTS_PER_BLOCK)
        if needed <= blocks:
            return table, blocks
        blocks, table = needed, ceil_div(needed, ENTRIES_PER_TABLE)


@dataclasses.dataclass(frozen=True)
class Header:
    """What the header of an image without anything unusual says.

    :param size: of the disk, in bytes
    :param l1_entries: entries of the L1 table
    :param l1_at: its place, in clusters from the start of the image
    :param table_at: the place of the refcount table
    :param table_clusters: its size
    """

    size: int
    l1_entries: int
    l1_at: int
    table_at: int
    table_clusters: int

    def content(self, incompatible: int = 0, fields: bytes = b'') -> bytes:
        """The header as bytes.

        :param incompatible: feature bits that a reader has to know
        :param fields: what follows the 104 bytes of every version 3 header
        """
        return padded(_HEADER.pack(
            _MAGIC, _VERSION,
            0, 0,                                   # backing file: none
            CLUSTER_BITS, self.size,
            0,                                      # encryption: none
            self.l1_entries, self.l1_at * CLUSTER_SIZE,
            self.table_at * CLUSTER_SIZE, self.table_clusters,
            0, 0,                                   # internal snapshots: none
            incompatible, 0, 0,                     # feature bits
            _REFCOUNT_ORDER, _HEADER_LENGTH + len(fields)) + fields)


class Qcow2Layout:
    """A qcow2 image of a disk that allocates only the clusters with data.

    :param clusters: the disk's map, in clusters of 64 KiB
    """

    def __init__(self, clusters: extents.ClusterMap) -> None:
        if clusters.cluster_size != CLUSTER_SIZE:
            raise ValueError('clusters of %d bytes' % clusters.cluster_size)
        self._map = clusters
        self._l1_entries = l1_entries(clusters)
        self._l2_tables = sum(1 for _ in clusters.groups(ENTRIES_PER_TABLE))
        self._place(clusters.count())

    def _place(self, data_clusters: int) -> None:
        """Fix the place of each part, in clusters from the image's start."""
        l1_clusters = ceil_div(self._l1_entries, ENTRIES_PER_TABLE)
        others = 1 + l1_clusters + self._l2_tables + data_clusters
        table, self._blocks = refcount_clusters(others)
        self._total = others + table + self._blocks
        self._blocks_at = 1 + table
        self._l1_at = self._blocks_at + self._blocks
        self._l2_at = self._l1_at + l1_clusters
        self._data_at = self._l2_at + self._l2_tables
        self._header = Header(virtual_size(self._map), self._l1_entries,
                              self._l1_at, 1, table)

    @property
    def length(self) -> int:
        return self._total * CLUSTER_SIZE

    def segments(self) -> Iterator[layout.Segment]:
        yield self._header.content()
        yield from self._refcount_table()
        yield from self._refcount_blocks()
        yield from self._l1_table()
        yield from self._l2_table_each()
        yield from self._data()

    def _refcount_table(self) -> Iterator[bytes]:
        # An entry of this table has no COPIED bit: plain offsets.
        entries = array.array('Q', range(
            self._blocks_at * CLUSTER_SIZE, self._l1_at * CLUSTER_SIZE,
            CLUSTER_SIZE))
        yield padded(big_endian(entries))

    def _refcount_blocks(self) -> Iterator[bytes]:
        one = (1).to_bytes(2)
        full, rest = divmod(self._total, REFCOUNTS_PER_BLOCK)
        for _ in range(full):
            yield one * REFCOUNTS_PER_BLOCK
        if rest:
            yield padded(one * rest)
        # Growing for its own clusters may leave a block that is empty.
        for _ in range(self._blocks - full - bool(rest)):
            yield bytes(CLUSTER_SIZE)

    def _l1_table(self) -> Iterator[bytes]:
        entries = array.array('Q', bytes(8 * self._l1_entries))
        tables = self._map.groups(ENTRIES_PER_TABLE)
        for group, entry in zip(tables, _offsets(self._l2_at,
                                                 self._l2_tables)):
            entries[group] = entry
        yield padded(big_endian(entries))

    def _l2_table_each(self) -> Iterator[bytes]:
        entries = iter(_offsets(self._data_at, self._map.count()))
        for group in self._map.groups(ENTRIES_PER_TABLE):
            base = group * ENTRIES_PER_TABLE
            table = array.array('Q', bytes(CLUSTER_SIZE))
            for first, end in self._map.runs(base, base + ENTRIES_PER_TABLE):
                table[first - base:end - base] = array.array(
                    'Q', itertools.islice(entries, end - first))
            yield big_endian(table)

    def _data(self) -> Iterator[layout.Segment]:
        size = self._map.disk_size
        for first, end in self._map.runs():
            start, stop = first * CLUSTER_SIZE, end * CLUSTER_SIZE
            yield layout.Read(start, min(stop, size) - start)
            if stop > size:
                yield layout.Zeros(stop - size)

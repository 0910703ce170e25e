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

"""Gives each cluster of a disk its place in a qcow2 image, in one pass."""

import array
from collections.abc import Callable

from nova_snapdriver.stream import qcow2
from nova_snapdriver.stream import qcow2_packed

_CLUSTER = qcow2.CLUSTER_SIZE

# What needs a host cluster of its own is held back until so much of it is
# there: the room that is lost before each such run is less than one cluster.
_MOST_HELD = 64

# Before that, it is placed where no more than a 200th of its size is lost.
_CHEAP = 200

# The most that is lost, for each such cluster.
LOST = _CLUSTER // _MOST_HELD

_ZEROS = memoryview(bytes(_CLUSTER))


class Outgrown(Exception):
    """The data do not fit before the tables."""


class _Table:
    """An L2 table, and the group of clusters it is for."""

    def __init__(self, group: int) -> None:
        self.group = group
        self.entries = array.array('Q', bytes(_CLUSTER))


class Packer:
    """Places clusters in the order of the disk.

    Compressed ones follow each other. Plain ones and L2 tables are held back
    to fill whole runs of host clusters. It keeps two bytes for each host
    cluster, and tables only until they are placed.

    :param put: takes the next bytes of the image
    """

    def __init__(self, layout: qcow2_packed.PackedLayout,
                 put: Callable[[memoryview], None]) -> None:
        self._put = put
        self._end = layout.place * _CLUSTER
        self._at = 0                    # of the next byte
        self._table: _Table | None = None
        self._full: list[_Table] = []
        self._held: list[tuple[bytes, _Table, int]] = []
        self.refcounts = array.array('H', [0]) * layout.place
        self.l1 = array.array('Q', [0]) * layout.l1_entries
        self._place(memoryview(layout.header()))

    @property
    def used(self) -> int:
        """Bytes of the image that are taken, or will be."""
        held = len(self._held) + len(self._full) + (self._table is not None)
        return self._at + held * _CLUSTER

    @property
    def gap(self) -> int:
        """Bytes that are left before the tables."""
        return self._end - self._at

    def packed(self, cluster: int, content: bytes) -> None:
        """Place a compressed cluster.

        :param cluster: its number on the disk
        :raises Outgrown: it does not fit
        """
        spare = -self._at % _CLUSTER
        if spare < len(content):
            self._align_if_cheap(spare)
        table, at, end = self._table_of(cluster), self._at, (
            self._at + len(content))
        self._require(end)
        table.entries[cluster % qcow2.ENTRIES_PER_TABLE] = (
            qcow2_packed.entry(at, len(content)))
        for host in range(at // _CLUSTER, (end - 1) // _CLUSTER + 1):
            self.refcounts[host] += 1
        self._put(memoryview(content))
        self._at = end

    def plain(self, cluster: int, content: memoryview) -> None:
        """Place a cluster as it is, or hold it back.

        :raises Outgrown: it does not fit
        """
        table = self._table_of(cluster)
        index = cluster % qcow2.ENTRIES_PER_TABLE
        if self._at % _CLUSTER:
            self._held.append((bytes(content), table, index))
            self._align_if_many()
            return
        self._align()
        table.entries[index] = self._place(content)

    def finish(self) -> None:
        """Place all that is held back.

        :raises Outgrown: it does not fit
        """
        if self._table is not None:
            self._full.append(self._table)
            self._table = None
        self._align()

    def _table_of(self, cluster: int) -> _Table:
        group = cluster // qcow2.ENTRIES_PER_TABLE
        if self._table is None or self._table.group != group:
            if self._table is not None:
                self._full.append(self._table)
                self._align_if_many()
            self._table = _Table(group)
        return self._table

    def _align_if_cheap(self, spare: int) -> None:
        held = len(self._held) + len(self._full)
        if spare * _CHEAP <= held * _CLUSTER:
            self._align()

    def _align_if_many(self) -> None:
        if len(self._held) + len(self._full) >= _MOST_HELD:
            self._align()

    def _align(self) -> None:
        """Place what is held back, from the next host cluster on."""
        if not self._held and not self._full:
            return
        spare = -self._at % _CLUSTER
        self._require(self._at + spare)
        self._put(_ZEROS[:spare])
        self._at += spare
        for content, table, index in self._held:
            table.entries[index] = self._place(memoryview(content))
        for table in self._full:
            # All of its clusters have a place now.
            self.l1[table.group] = self._place(memoryview(
                qcow2.big_endian(table.entries)))
        self._held.clear()
        self._full.clear()

    def _place(self, content: memoryview) -> int:
        """Use the next host cluster; returns the entry that points to it."""
        at = self._at
        self._require(at + _CLUSTER)
        self._put(content)
        self.refcounts[at // _CLUSTER] = 1
        self._at += _CLUSTER
        return at | qcow2.COPIED

    def _require(self, end: int) -> None:
        if end > self._end:
            raise Outgrown('%d bytes do not fit' % end)

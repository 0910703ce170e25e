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

"""Which clusters of a disk hold data.

One bit a cluster: 2 MiB a TiB of disk at 64 KiB clusters, however fragmented
the disk is. A list of extents is smaller for a tidy disk and has no bound for
an untidy one.
"""

from collections.abc import Iterator
import re

CLUSTER_SIZE = 64 * 1024

# Full bytes come as one match. Empty ones are skipped by the search itself,
# and many of them by comparing memory, which is some twenty times as fast: 8
# TiB have 16 MiB of bits.
_OCCUPIED = re.compile(rb'\xff+|[^\x00\xff]', re.DOTALL)
_STEP = 64 * 1024
_EMPTY = bytearray(_STEP)


def _byte_runs(byte: int) -> tuple[tuple[int, int], ...]:
    """The runs of set bits in a byte, as (first, end), lowest bit first."""
    runs: list[tuple[int, int]] = []
    for bit in range(8):
        if not byte >> bit & 1:
            continue
        if runs and runs[-1][1] == bit:
            runs[-1] = (runs[-1][0], bit + 1)
        else:
            runs.append((bit, bit + 1))
    return tuple(runs)


_BYTE_RUNS = tuple(_byte_runs(byte) for byte in range(256))


class ClusterMap:
    """The clusters of one disk, each either data or known to read as zeros.

    :param disk_size: bytes; the last cluster may be a partial one
    :param cluster_size: bytes
    """

    def __init__(self, disk_size: int,
                 cluster_size: int = CLUSTER_SIZE) -> None:
        self.disk_size = disk_size
        self.cluster_size = cluster_size
        self.clusters = -(-disk_size // cluster_size)
        self._bits = bytearray(-(-self.clusters // 8))

    def mark(self, offset: int, length: int) -> None:
        """Mark a range of bytes as data.

        The start is floored to a cluster and the end is ceiled: a cluster
        that holds one byte of data is data.

        :raises ValueError: the range is not within the disk
        """
        if offset < 0 or length <= 0 or offset + length > self.disk_size:
            raise ValueError('extent %d+%d is not within a disk of %d bytes' %
                             (offset, length, self.disk_size))
        first = offset // self.cluster_size
        end = -(-(offset + length) // self.cluster_size)
        self._set(first, end)

    def _set(self, first: int, end: int) -> None:
        head, tail = first // 8, end // 8
        low, high = 0xff << first % 8 & 0xff, 0xff >> 8 - end % 8
        if head == tail:
            self._bits[head] |= low & high
            return
        self._bits[head] |= low
        self._bits[head + 1:tail] = b'\xff' * (tail - head - 1)
        if high:
            self._bits[tail] |= high

    def count(self) -> int:
        """The number of clusters that hold data."""
        return sum(
            int.from_bytes(self._bits[at:at + _STEP]).bit_count()
            for at in range(0, len(self._bits), _STEP))

    def runs(self, first: int = 0,
             end: int | None = None) -> Iterator[tuple[int, int]]:
        """The runs of data clusters, as (first, end), in order.

        :param first: cluster to begin at, a multiple of 8
        :param end: cluster to end before, a multiple of 8; None for all
        """
        stop = len(self._bits) if end is None else end // 8
        begun = ended = -1
        for match in self._matches(first // 8, stop):
            for low, high in self._pieces(match):
                if low == ended:
                    ended = high
                    continue
                if begun >= 0:
                    yield begun, ended
                begun, ended = low, high
        if begun >= 0:
            yield begun, ended

    def _matches(self, start: int, stop: int) -> Iterator[re.Match[bytes]]:
        bits = memoryview(self._bits)
        for at in range(start, stop, _STEP):
            # On the left, as a memoryview would compare byte by byte.
            if _EMPTY != bits[at:at + _STEP]:
                yield from _OCCUPIED.finditer(self._bits, at,
                                              min(at + _STEP, stop))

    def _pieces(self, match: re.Match[bytes]) -> Iterator[tuple[int, int]]:
        base, byte = match.start() * 8, self._bits[match.start()]
        if byte == 0xff:
            yield base, match.end() * 8
            return
        for low, high in _BYTE_RUNS[byte]:
            yield base + low, base + high

    def groups(self, size: int) -> Iterator[int]:
        """The groups of clusters that hold any data, by index, in order.

        :param size: clusters in a group, a multiple of 8
        """
        step, bits = size // 8, memoryview(self._bits)
        for group, at in enumerate(range(0, len(bits), step)):
            piece = bits[at:at + step]
            if _EMPTY[:len(piece)] != piece:
                yield group

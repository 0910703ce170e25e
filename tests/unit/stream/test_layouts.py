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

import struct

import hypothesis
from hypothesis import strategies
import pytest

from nova_snapdriver.stream import extents
from nova_snapdriver.stream import layout
from nova_snapdriver.stream import qcow2
from nova_snapdriver.stream import raw

CLUSTER = qcow2.CLUSTER_SIZE
TIB = 1 << 40

SIZES = strategies.one_of(
    strategies.integers(1, 40 * CLUSTER),
    strategies.integers(1, 8 * TIB),
    strategies.builds(lambda base, more: base + more,
                      strategies.sampled_from([512 << 20, 2 << 30, 8 * TIB]),
                      strategies.integers(-1025, 1025)))


@strategies.composite
def maps(draw, sizes=SIZES):
    found = extents.ClusterMap(draw(sizes))
    for place in draw(strategies.lists(strategies.integers(0, 999),
                                       max_size=9)):
        offset = place * found.disk_size // 1000
        length = draw(strategies.integers(1, 5 * CLUSTER))
        found.mark(offset, min(length, found.disk_size - offset))
    return found


def length_of(segment):
    return len(segment) if isinstance(segment, bytes) else segment.length


@pytest.mark.parametrize('make', (raw.RawLayout, qcow2.Qcow2Layout))
@hypothesis.settings(deadline=None, max_examples=40)
@hypothesis.given(clusters=maps())
def test_length_is_known_before_the_first_byte(make, clusters):
    image = make(clusters)
    assert image.length == sum(map(length_of, image.segments()))


@pytest.mark.parametrize('make', (raw.RawLayout, qcow2.Qcow2Layout))
@hypothesis.settings(deadline=None, max_examples=40)
@hypothesis.given(clusters=maps())
def test_reads_are_the_data_in_order(make, clusters):
    reads = [(segment.offset, segment.offset + segment.length)
             for segment in make(clusters).segments()
             if isinstance(segment, layout.Read)]
    assert reads == [(first * CLUSTER, min(end * CLUSTER, clusters.disk_size))
                     for first, end in clusters.runs()]


def placed(image):
    """Metadata, and clusters read from the disk, by their place."""
    at, reads, position = {}, {}, 0
    for segment in image.segments():
        if isinstance(segment, bytes):
            at[position] = segment
        elif isinstance(segment, layout.Read):
            for step in range(0, segment.length, CLUSTER):
                reads[position + step] = segment.offset + step
        position += length_of(segment)
    return at, reads


def pointers(table, count):
    """The entries of a table that point somewhere."""
    for index, entry in enumerate(struct.unpack_from('>%dQ' % count, table)):
        if entry:
            assert entry >> 63 == 1, 'a refcount of one'
            yield index, entry & (1 << 56) - 512


@hypothesis.settings(deadline=None)
@hypothesis.given(maps(strategies.integers(1, 2 << 30)))
def test_qcow2_tables_lead_to_the_data(clusters):
    """Follow the tables as a reader of the format would."""
    at, reads = placed(qcow2.Qcow2Layout(clusters))
    entries, l1_at = struct.unpack_from('>IQ', at[0], 36)
    found = {}
    for number, table in pointers(at[l1_at], entries):
        for index, cluster in pointers(at[table], 8192):
            found[cluster] = (number * 8192 + index) * CLUSTER
    assert found == reads
    assert len(found) == clusters.count()


def test_qcow2_header_promises_nothing_unusual():
    header = next(qcow2.Qcow2Layout(extents.ClusterMap(1537)).segments())
    (magic, version, backing, backing_size, bits, size, crypt) = (
        struct.unpack_from('>IIQIIQI', header))
    assert (magic, version) == (0x514649fb, 3)
    assert (backing, backing_size, crypt) == (0, 0, 0)
    assert bits == 16
    assert size == 2048                 # whole sectors
    snapshots, _, incompatible, compatible, autoclear, order, length = (
        struct.unpack_from('>IQQQQII', header, 60))
    assert (snapshots, incompatible, compatible, autoclear) == (0, 0, 0, 0)
    assert (order, length) == (4, 104)
    assert header[104:112] == bytes(8)  # no header extension


def test_qcow2_with_other_clusters_is_an_error():
    with pytest.raises(ValueError, match='4096'):
        qcow2.Qcow2Layout(extents.ClusterMap(1, 4096))

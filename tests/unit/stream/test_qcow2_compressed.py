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

import array
import struct

import hypothesis
from hypothesis import strategies
import pytest

from nova_snapdriver.stream import compressor
from nova_snapdriver.stream import extents
from nova_snapdriver.stream import layout
from nova_snapdriver.stream import qcow2
from nova_snapdriver.stream import qcow2_compressed

CLUSTER = qcow2.CLUSTER_SIZE
SIZES = strategies.one_of(
    strategies.just(0), strategies.integers(1, compressor.MAX_PACKED),
    strategies.sampled_from((1, 512, 32768, compressor.MAX_PACKED)))


@strategies.composite
def disks(draw):
    """What a survey found: runs of clusters, each with a size."""
    runs = draw(strategies.lists(strategies.tuples(
        strategies.integers(0, 9), strategies.lists(SIZES, max_size=40))))
    short = draw(strategies.integers(0, CLUSTER - 1))
    end = sum(gap + len(sizes) for gap, sizes in runs) + 1
    clusters = extents.ClusterMap(end * CLUSTER - short)
    found, at = array.array('H'), 0
    for gap, sizes in runs:
        at += gap
        if sizes:
            clusters.mark(at * CLUSTER, len(sizes) * CLUSTER)
        at += len(sizes)
        found.extend(sizes)
    return extents.SurveyedMap(clusters, found)


def length_of(segment):
    return len(segment) if isinstance(segment, bytes) else segment.length


def laid_out(found, codec='zlib'):
    """Metadata and reads by their place, and where they end."""
    image = qcow2_compressed.CompressedLayout(found, codec)
    at, reads, position = {}, {}, 0
    for segment in image.segments():
        if isinstance(segment, bytes):
            at[position] = segment
        elif isinstance(segment, layout.Read):
            for step in range(0, segment.length, CLUSTER):
                reads[position + step] = segment.offset + step
        position += length_of(segment)
    return image, at, reads, position


def entries(at):
    """The L2 entries, by cluster of the disk, as a reader finds them."""
    count, l1_at = struct.unpack_from('>IQ', at[0], 36)
    for number, pointer in enumerate(
            struct.unpack_from('>%dQ' % count, at[l1_at])):
        if pointer:
            table = at[pointer & ~qcow2.COPIED]
            for index, entry in enumerate(struct.unpack('>8192Q', table)):
                if entry:
                    yield number * 8192 + index, entry


def data(found):
    return [cluster for first, end in found.clusters.runs()
            for cluster in range(first, end)]


@hypothesis.settings(deadline=None)
@hypothesis.given(disks())
def test_entries_lead_to_the_clusters(found):
    image, at, reads, packed_at = laid_out(found)
    assert image.length == packed_at + image.packed + image.padding
    assert image.length % CLUSTER == 0
    sizes = dict(zip(data(found), found.sizes))
    seen = {}
    for cluster, entry in entries(at):
        seen[cluster] = entry
        if entry >> 63:
            assert sizes[cluster] == 0
            assert reads[entry ^ 1 << 63] == cluster * CLUSTER
            continue
        assert entry >> 62 == 1
        offset, sectors = entry & (1 << 54) - 1, entry >> 54 & 0xff
        # All of it, and it alone, from where the one before it ended.
        assert offset == packed_at
        end = offset // 512 * 512 + (sectors + 1) * 512
        assert end - 512 < offset + sizes[cluster] <= end
        packed_at += sizes[cluster]
    assert list(seen) == data(found)


@hypothesis.settings(deadline=None)
@hypothesis.given(disks())
def test_refcounts_are_how_often_a_cluster_is_used(found):
    image, at, _, packed_at = laid_out(found)
    table_at, = struct.unpack_from('>Q', at[0], 48)
    counted = []
    for pointer in struct.unpack('>8192Q', at[table_at]):
        if pointer:
            counted += struct.unpack('>32768H', at[pointer])
    used = [1] * (packed_at // CLUSTER)
    used += [0] * ((image.length - packed_at) // CLUSTER)
    for size in filter(None, found.sizes):
        for cluster in {packed_at // CLUSTER,
                        (packed_at + size - 1) // CLUSTER}:
            used[cluster] += 1
        packed_at += size
    assert counted[:len(used)] == used
    assert not any(counted[len(used):])
    assert 0 not in used


@hypothesis.settings(deadline=None)
@hypothesis.given(disks(), strategies.integers(0, 30))
def test_rest_is_what_was_not_kept(found, kept):
    image = qcow2_compressed.CompressedLayout(found, 'zlib')
    rest = [cluster for read in image.rest(kept) for cluster in range(
        read.offset // CLUSTER, -(-(read.offset + read.length) // CLUSTER))]
    packed = [cluster for cluster, size in zip(data(found), found.sizes)
              if size]
    assert rest == packed[kept:]


@pytest.mark.parametrize('codec, incompatible, length, kind', (
    ('zlib', 0, 104, 0), ('zstd', 8, 112, 1)))
def test_header_says_how_it_is_compressed(codec, incompatible, length, kind):
    clusters = extents.ClusterMap(CLUSTER)
    nothing = extents.SurveyedMap(clusters, array.array('H'))
    header = laid_out(nothing, codec)[1][0]
    assert struct.unpack_from('>QQQII', header, 72) == (
        incompatible, 0, 0, 4, length)
    assert header[104] == kind
    assert header[105:120] == bytes(15)     # no header extension

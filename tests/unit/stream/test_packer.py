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

from nova_snapdriver.stream import compressor
from nova_snapdriver.stream import extents
from nova_snapdriver.stream import packer
from nova_snapdriver.stream import qcow2
from nova_snapdriver.stream import qcow2_packed

CLUSTER = qcow2.CLUSTER_SIZE
PLAIN = None
SIZES = strategies.one_of(
    strategies.just(PLAIN), strategies.integers(1, compressor.MAX_PACKED),
    strategies.sampled_from((1, 512, 32768, compressor.MAX_PACKED)))


@strategies.composite
def disks(draw):
    """Clusters, each with its compressed size or PLAIN."""
    runs = draw(strategies.lists(strategies.tuples(
        strategies.sampled_from((0, 1, 9, 8000)),
        strategies.lists(SIZES, max_size=40), strategies.integers(1, 5)),
        max_size=6))
    found, at = {}, 0
    for gap, sizes, times in runs:
        at += gap
        for size in sizes * times:
            found[at] = size
            at += 1
    return found


def content(cluster, size):
    return bytes([cluster % 255 + 1]) * (size or CLUSTER)


def packed(disk, place=None, codec='zlib'):
    """The image of a disk, with its tables far enough behind."""
    clusters = extents.ClusterMap((max(disk, default=0) + 1) * CLUSTER)
    layout = qcow2_packed.PackedLayout(
        clusters, codec, place or 2 * len(disk) + 40)
    image = bytearray()
    made = packer.Packer(layout, image.extend)
    for cluster, size in disk.items():
        if size is PLAIN:
            made.plain(cluster, memoryview(content(cluster, size)))
        else:
            made.packed(cluster, content(cluster, size))
    made.finish()
    data = len(image)
    assert made.used == data
    image.extend(bytes(made.gap))
    for table in layout.tables(made.l1, made.refcounts):
        image.extend(table)
    assert len(image) == layout.length
    return bytes(image), data


def entries(image):
    """The L2 entries, by cluster of the disk, as a reader finds them."""
    count, l1_at = struct.unpack_from('>IQ', image, 36)
    for number, pointer in enumerate(
            struct.unpack_from('>%dQ' % count, image, l1_at)):
        if pointer:
            assert pointer >> 63 == 1
            table = struct.unpack_from('>8192Q', image, pointer ^ 1 << 63)
            for index, entry in enumerate(table):
                if entry:
                    yield number * 8192 + index, entry


@hypothesis.settings(deadline=None, max_examples=40)
@hypothesis.given(disks())
def test_entries_lead_to_the_clusters(disk):
    image, _ = packed(disk)
    seen = []
    for cluster, entry in entries(image):
        seen.append(cluster)
        size = disk[cluster]
        offset = entry & (1 << 54) - 1
        if size is PLAIN:
            assert entry >> 63 == 1 and offset % CLUSTER == 0
            size = CLUSTER
        else:
            assert entry >> 62 == 1
            # Sectors of the file, from that of the first byte on.
            end = offset // 512 * 512 + ((entry >> 54 & 0xff) + 1) * 512
            assert end - 512 < offset + size <= end
        assert image[offset:offset + size] == content(cluster, size)
    assert seen == list(disk)


@hypothesis.settings(deadline=None, max_examples=40)
@hypothesis.given(disks())
def test_refcounts_are_how_often_a_cluster_is_used(disk):
    image, data = packed(disk)
    table_at, table_clusters = struct.unpack_from('>QI', image, 48)
    l1_at, = struct.unpack_from('>Q', image, 40)
    counted, blocks = [], []
    for pointer in struct.unpack_from('>%dQ' % (table_clusters * 8192), image,
                                      table_at):
        if pointer:
            blocks.append(pointer)
            counted += struct.unpack_from('>32768H', image, pointer)
    used = [0] * len(counted)
    used[0] = 1
    for at in range(l1_at // CLUSTER, len(image) // CLUSTER):
        used[at] = 1
    count, = struct.unpack_from('>I', image, 36)
    for pointer in struct.unpack_from('>%dQ' % count, image, l1_at):
        if pointer:
            used[(pointer ^ 1 << 63) // CLUSTER] += 1
    for cluster, entry in entries(image):
        offset = entry & (1 << 54) - 1
        end = offset + (disk[cluster] or CLUSTER)
        for host in range(offset // CLUSTER, (end - 1) // CLUSTER + 1):
            used[host] += 1
    assert counted == used
    assert blocks[-1] == len(image) - CLUSTER
    assert not any(counted[-(-data // CLUSTER):l1_at // CLUSTER])


@hypothesis.settings(deadline=None, max_examples=40)
@hypothesis.given(disks())
def test_little_is_lost_between_plain_and_compressed_clusters(disk):
    _, data = packed(disk)
    packed_bytes = sum(filter(None, disk.values()))
    alone = 1 + list(disk.values()).count(PLAIN) + len(
        {cluster // 8192 for cluster in disk})
    assert data <= packed_bytes + alone * (CLUSTER + packer.LOST) + CLUSTER


@pytest.mark.parametrize('pattern', (
    [PLAIN, 30000], [PLAIN, PLAIN, 100], [PLAIN] * 63 + [100],
    [PLAIN] * 64 + [1], [60000] * 3 + [PLAIN]))
def test_alternating_data_cost_little(pattern):
    disk = dict(enumerate(pattern * (6000 // len(pattern))))
    _, data = packed(disk)
    assert data <= 1.02 * sum(size or CLUSTER for size in disk.values())


@pytest.mark.parametrize('size', (PLAIN, 40000))
def test_what_does_not_fit_is_told(size):
    disk = dict.fromkeys(range(100), size)
    data = packed(disk)[1] // CLUSTER
    packed(disk, data)
    with pytest.raises(packer.Outgrown):
        packed(disk, data - 1)


@pytest.mark.parametrize('codec, incompatible, length, kind', (
    ('zlib', 0, 104, 0), ('zstd', 8, 112, 1), (None, 0, 104, 0)))
def test_header_says_how_it_is_compressed(codec, incompatible, length, kind):
    header = packed({}, codec=codec)[0]
    assert struct.unpack_from('>QQQII', header, 72) == (
        incompatible, 0, 0, 4, length)
    assert header[104] == kind
    assert header[105:120] == bytes(15)     # no header extension

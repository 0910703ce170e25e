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


import random
from unittest import mock

import hypothesis
from hypothesis import strategies
import pytest

from nova_snapdriver.stream import extents
from nova_snapdriver.stream import packer
from nova_snapdriver.stream import sample
from tests.unit.stream import fake_disk

CLUSTER = fake_disk.CLUSTER


def taken(disk, codec='zstd', source=None):
    return sample.Sampler(
        source or fake_disk.Source(disk), fake_disk.mapped(disk),
        sample.Settings(codec, 2), lambda: None).take()


@hypothesis.settings(deadline=None, max_examples=20)
@hypothesis.given(strategies.lists(
    strategies.sampled_from(sorted(fake_disk.KINDS)), min_size=1,
    max_size=60))
def test_small_disk_is_sampled_whole(kinds):
    found = taken(fake_disk.Kinds(kinds))
    assert found.clusters == found.whole == len(kinds)
    assert found.margin == 0
    assert found.zeros == kinds.count('zeros')
    assert sum(size == CLUSTER + packer.LOST for size in found.runs) == (
        kinds.count('noise'))
    assert found.rest()[0] == found.expected == sum(found.runs)
    assert found.rest()[-1] == 0


def test_without_a_codec_a_cluster_is_zeros_or_takes_its_size():
    found = taken(fake_disk.Kinds(['noise', 'zeros', 'text']), None)
    assert list(found.runs) == [CLUSTER, 0, CLUSTER]


KINDS = {
    'system files': lambda number: random.choice(('half', 'text', 'noise')),
    'alternating': lambda number: ('half', 'noise')[number % 2],
    'every 64th': lambda number: 'half' if number % 64 else 'noise',
    'halves': lambda number: 'noise' if number > 3000 else 'text',
    'late noise': lambda number: 'noise' if number > 5000 else 'zeros',
    'half of it zeros': lambda number: random.choice(('zeros', 'noise')),
}
SIZES = {'zeros': 0, 'noise': CLUSTER + packer.LOST}


@pytest.mark.parametrize('kind', KINDS)
def test_prediction_of_a_disk(kind):
    random.seed(kind)
    kinds = list(map(KINDS[kind], range(6000)))
    sizes = SIZES | {
        kind: taken(fake_disk.Kinds([kind])).runs[0]
        for kind in ('text', 'half')}
    real = sum(map(sizes.get, kinds))
    found = taken(fake_disk.Kinds(kinds))
    assert 500 <= found.clusters <= 2000
    assert real <= found.expected + 1.5 * found.margin
    assert found.expected <= real + 1.5 * found.margin
    assert found.margin <= 0.13 * real


def test_rare_data_among_zeros_have_room():
    kinds = ['zeros'] * 20000
    found = taken(fake_disk.Kinds(kinds))
    assert found.expected == 0
    assert found.margin > 5 * found.scale * CLUSTER
    assert found.clusters >= 1000


def test_slow_disk_is_read_in_runs():
    disk = fake_disk.Kinds(['text'] * 6000)
    with mock.patch('time.monotonic', side_effect=[0, 1]):
        found = taken(disk)
    assert found.run == 8
    assert 500 <= found.clusters <= 1000


@hypothesis.settings(deadline=None, max_examples=30)
@hypothesis.given(strategies.lists(
    strategies.tuples(strategies.integers(1, 9), strategies.integers(1, 9)),
    min_size=1, max_size=20), strategies.integers(1, 8), strategies.data())
def test_runs_of_a_disk_with_holes(pieces, run, data):
    """What is read is the data clusters that are asked for."""
    clusters = extents.ClusterMap(
        sum(map(sum, pieces)) * CLUSTER)
    at, expected = 0, []
    for hole, length in pieces:
        at += hole
        clusters.mark(at * CLUSTER, length * CLUSTER)
        expected += range(at, at + length)
        at += length
    hypothesis.assume(len(expected) >= run)
    numbers = sorted(data.draw(strategies.sets(
        strategies.integers(0, len(expected) // run - 1), min_size=1)))
    sampler = sample.Sampler(None, clusters, sample.Settings(None, 1),
                             lambda: None)
    read = [cluster for one in sampler._reads(numbers, run)
            for cluster in range(one.offset // CLUSTER,
                                 (one.offset + one.length) // CLUSTER)]
    assert read == [cluster for number in numbers for cluster in
                    expected[number * run:(number + 1) * run]]


@pytest.mark.parametrize('kind, codec, least', (
    ('words', 'zstd', 0.01), ('half', 'zstd', 0), ('noise', 'zstd', 0),
    ('words', None, 0)))
def test_what_compressing_harder_would_save(kind, codec, least):
    found = taken(fake_disk.Kinds([kind] * 1200), codec)
    assert (found.harder > 0) == (least > 0)
    assert least <= found.harder < 0.5
    assert found.saved == pytest.approx(found.harder * found.expected)

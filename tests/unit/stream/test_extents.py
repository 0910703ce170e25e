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

import hypothesis
from hypothesis import strategies
import pytest

from nova_snapdriver.stream import extents

CLUSTER = 4096


@strategies.composite
def disks(draw):
    """A size, and ranges within it."""
    size = draw(strategies.integers(1, 300 * CLUSTER))
    ranges = draw(strategies.lists(strategies.tuples(
        strategies.integers(0, size - 1), strategies.integers(1, size)),
        max_size=30))
    return size, [(offset, min(length, size - offset))
                  for offset, length in ranges]


def marked(size, ranges):
    found = extents.ClusterMap(size, CLUSTER)
    for offset, length in ranges:
        found.mark(offset, length)
    return found


def expected(ranges):
    return {cluster for offset, length in ranges
            for cluster in range(offset // CLUSTER,
                                 (offset + length - 1) // CLUSTER + 1)}


@hypothesis.given(disks())
def test_every_cluster_with_a_byte_of_data_is_data(disk):
    clusters = expected(disk[1])
    found = marked(*disk)
    assert found.count() == len(clusters)
    runs = list(found.runs())
    assert [cluster for first, end in runs
            for cluster in range(first, end)] == sorted(clusters)
    # Merged: between two runs there is something.
    assert all(one[1] < other[0] for one, other in zip(runs, runs[1:]))


@hypothesis.given(disks(), strategies.integers(1, 4))
def test_groups_are_those_with_data(disk, eights):
    size = 8 * eights
    found = marked(*disk)
    groups = list(found.groups(size))
    assert groups == sorted({cluster // size
                             for cluster in expected(disk[1])})
    by_group = [run for group in groups
                for run in found.runs(group * size, (group + 1) * size)]
    assert sum(end - first for first, end in by_group) == found.count()


@pytest.mark.parametrize('offset, length', (
    (-1, 1), (0, 0), (0, -1), (0, 10001), (10000, 1)))
def test_range_outside_of_the_disk_is_an_error(offset, length):
    with pytest.raises(ValueError, match='10000'):
        extents.ClusterMap(10000, CLUSTER).mark(offset, length)

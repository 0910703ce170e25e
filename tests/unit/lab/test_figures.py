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

import pytest

from lab.bench import figures

RANDOM, TREE = 'random qcow2 1 GiB', 'tree raw 1 GiB'
STILL = f'{TREE}{figures.PAUSED}'


def rows(disk, contender, *seconds, gaps=(), **fields):
    return [figures.with_gaps(
        figures.Row(disk, contender, number, second, **fields), gaps)
        for number, second in enumerate(seconds, 1)]


@pytest.mark.parametrize('percent, expected', [
    (50, 3), (99, 5), (100, 5), (1, 1), (0, 1)])
def test_percentile(percent, expected):
    assert figures.percentile([5, 3, 1, 2, 4], percent) == expected


def test_percentile_of_nothing():
    assert figures.percentile([], 50) is None


def test_a_percentile_is_not_the_longest_of_many():
    assert figures.percentile([0.1] * 199 + [9.0], 99) == 0.1


def test_median_leaves_out_what_failed():
    found = rows(RANDOM, 'plain', 10.0, 14.0, 11.0)
    found.append(figures.Row(RANDOM, 'plain', 4, problem='it failed'))
    assert figures.median(found, 'seconds') == 11.0
    assert figures.median(found, 'freeze_seconds') is None


def test_median_phases():
    found = [figures.Row(RANDOM, 'plain', phases={'capture': value,
                                                  'upload': 2 * value})
             for value in (1.0, 3.0, 2.0)]
    assert figures.median_phases(found) == {'capture': 2.0, 'upload': 4.0}


def test_ratios():
    found = [
        *rows(RANDOM, 'idle', None, gaps=(0.1, 0.2)),
        *rows(RANDOM, 'plain', 9.0, 11.0, 10.0, gaps=(0.1, 0.3),
              staged_bytes=7, memory_peak_bytes=50),
        *rows(RANDOM, 'curl', 8.0, 8.0, 9.0),
        *rows(RANDOM, 'stock', 20.0), *rows(RANDOM, 'zstd', 10.5),
        *rows(STILL, 'zstd', 3.0, staged_bytes=9),
        *rows(STILL, 'curl', 6.0),
        *rows(RANDOM, 'read', 2.0), *rows(RANDOM, 'nbdcopy', 1.0),
        *rows(TREE, 'zstd', 6.0, memory_peak_bytes=80),
        *rows(TREE, 'zlib', 7.0), *rows(TREE, 'curl', 8.0),
        *rows(TREE, 'stock', 24.0), *rows(TREE, 'stock-compressed', 70.0)]
    assert figures.ratios(found) == {
        'plain_vs_floor': 1.25, 'plain_vs_stock': 0.5,
        'zstd_vs_plain_random': 1.05, 'zstd_vs_floor_paused': 0.5,
        'zstd_vs_floor': 0.75, 'zstd_vs_stock': 0.25,
        'zlib_vs_stock_compressed': 0.1, 'read_vs_nbdcopy': 0.5,
        'staging_bytes': 9, 'peak_memory_bytes': 80,
        'guest_gap_p99_vs_idle': 1.5}


def test_ratios_of_raw_images_in_ceph():
    ten, hundred = 'random in 10 GiB', 'random in 100 GiB'
    found = figures.ratios([
        *rows(ten, 'ceph-direct', 3.0), *rows(ten, 'ceph-write', 1.5),
        *rows(ten, 'ceph-convert', 1.0), *rows(ten, 'ceph-curl', 60.0),
        *rows(ten, 'ceph-glance', 66.0), *rows(hundred, 'ceph-direct', 3.3)])
    assert {name: value for name, value in found.items()
            if value is not None} == {
        'direct_vs_curl': 0.05, 'through_glance_vs_curl': 1.1,
        'direct_vs_convert': 3.0, 'write_vs_convert': 1.5,
        'direct_by_virtual_size': 1.1}


def test_ratios_of_what_was_not_run():
    found = rows(RANDOM, 'plain', 9.0)
    assert set(figures.ratios(found).values()) == {None}


def test_a_row_in_json_has_percentiles_and_not_all_gaps():
    [row] = rows(RANDOM, 'plain', 9.0, gaps=(0.1, 0.2, 0.4))
    found = row.as_json()
    assert 'write_gaps' not in found
    assert found['write_gap_p50_seconds'] == 0.2
    assert found['write_gap_longest_seconds'] == 0.4


def test_medians():
    found = figures.medians([*rows(TREE, 'curl', 8.0),
                             *rows(TREE, 'zstd', 6.0, 4.0)])
    assert found[1] == {
        'disk': TREE, 'contender': 'zstd', 'runs': 2, 'seconds': 5.0,
        'phases': {}, 'vs_floor': 0.625, 'vs_stock': None}

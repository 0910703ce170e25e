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

"""The benchmark, with one small disk and two of its contenders."""

import pytest

from lab.bench import bench
from lab.bench import disks
from lab.bench import figures
from lab.bench import plot


# Longer than that only where the machine has other things to do.
@pytest.mark.timeout(900)
def test_bench(lab):
    made = bench.Bench(lab, disks.QUICK, 1, ('plain', 'curl'))
    made.run()
    assert [row.contender for row in made.rows] == ['idle', 'plain', 'curl']
    assert not [row.problem for row in made.rows if row.problem]
    _, plain, curl = made.rows
    assert {'capture', 'upload', 'verify'} <= set(plain.phases)
    assert plain.freeze_seconds > 0
    assert plain.staged_bytes == 0
    assert 0 < plain.memory_peak_bytes < 128 * disks.MI
    assert plain.bytes_read > 32 * disks.MI
    assert plain.bytes_sent == curl.bytes_sent
    assert set(plain.cpu_seconds) == {'nova', 'qemu', 'glance'}
    found = figures.ratios(made.rows)
    assert found['plain_vs_floor'] > 0
    assert found['guest_gap_p99_vs_idle'] > 0
    assert 'Nova' not in plot.svg(made.rows)

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

"""The picture of a guest's writes."""

from unittest import mock

from lab.bench import demo
from lab.bench import writes
from lab.observe import measure


def test_a_gap_is_a_gap():
    steady = tuple(number / 10 for number in range(601))
    stalled = tuple(time for time in steady[:301] if not 10 < time < 15)
    title, _, first, second = writes.picture(
        {'ours': steady, 'stock': stalled}).splitlines()
    assert title == 'writes of the guest, a column for each 1.00 s:'
    assert first == 'ours        ' + 60 * '█' + '▁ 60.0 s'
    assert second == (
        'stock       ' + 10 * '█' + '▁    ' + 15 * '█' + '▁ 30.0 s')


def test_a_guest_that_wrote_once():
    assert writes.picture({'one': (0.0,)}).endswith('█ 0.0 s')


def run(gap):
    return measure.Run(
        image_id='i', status='active', size=1, seconds=1.0,
        staging_peak_bytes=0, write_gap_seconds=gap,
        host_write_gap_seconds=gap, persistent=True, writes=(0.0, gap))


def test_the_demo_ends_with_a_typical_run_of_each_driver():
    made = demo.Demo(mock.MagicMock())
    made.ours = [run(gap) for gap in (1.0, 9.0, 2.0)]
    made.stock = [run(gap) for gap in (7.0, 5.0, 6.0)]
    made.puts = [run(1.0)]
    ours, stock = made.summary().splitlines()[-2:]
    assert ours.startswith('snapdriver') and ours.endswith(' 2.0 s')
    assert stock.startswith("Nova's own") and stock.endswith(' 6.0 s')

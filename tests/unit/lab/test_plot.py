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

from xml.etree import ElementTree

import pytest

from lab.bench import figures
from lab.bench import phases
from lab.bench import plot
from lab.bench import scaling
from lab.bench import table

SVG = '{http://www.w3.org/2000/svg}'
ROWS = [
    figures.Row('random', 'idle'),
    figures.Row('random', 'plain', 1, 10.0,
                {'capture': 1.0, 'upload': 9.0, 'verify': 0.5}),
    figures.Row('random', 'stock', 1, 20.0,
                {'copy': 5.0, 'convert': 5.0, 'upload': 10.0}),
    figures.Row('random', 'zstd', problem='a < b & c')]


def rectangles(root):
    return [(float(one.get('x')), float(one.get('width')),
             one.find(f'{SVG}title').text)
            for one in root.iter(f'{SVG}rect') if one.find(f'{SVG}title')
            is not None and ': ' in one.find(f'{SVG}title').text]


def test_phases_are_stacked_to_scale():
    found = rectangles(ElementTree.fromstring(plot.svg(ROWS)))
    by_name = {words: (left, width) for left, width, words in found}
    capture, upload = (by_name['capture: 1.00 s'], by_name['upload: 9.00 s'])
    assert capture[0] == plot.LEFT
    assert upload[0] == pytest.approx(sum(capture), abs=0.2)
    assert upload[1] == pytest.approx(9 * capture[1], rel=0.02)
    assert len(found) == 6
    assert all(left + width <= plot.WIDTH for left, width, _ in found)


def test_who_was_not_timed_has_no_bar():
    assert [bar.title for bar in plot.bars(ROWS, 'random')] == [
        'snapdriver', "Nova's own"]


def test_each_phase_has_a_color():
    assert set(phases.NAMES) <= set(plot.COLORS)


@pytest.mark.parametrize('longest, expected', [
    (10.0, [0, 2, 4, 6, 8, 10]), (0.7, [0.1 * n for n in range(8)]),
    (71.0, [0, 10, 20, 30, 40, 50, 60, 70, 80]), (0.0, [0])])
def test_ticks(longest, expected):
    assert plot.ticks(longest) == pytest.approx(expected)


def test_curves():
    points = [scaling.Point(axis, size, name, 2.0 * size, 1 << 20)
              for axis in ('servers', 'data', 'virtual')
              for name in scaling.DRIVERS for size in (1, 2, 5)]
    root = ElementTree.fromstring(plot.svg(ROWS, points))
    assert len(list(root.iter(f'{SVG}polyline'))) == 6
    assert len(list(root.iter(f'{SVG}circle'))) == 18
    assert '5 servers at once' in table.text(ROWS, points)


def test_tables():
    text = table.text(ROWS)
    assert 'snapdriver' in text
    assert 'random: zstd: a < b & c' in text
    machine = dict.fromkeys(
        ('cpu', 'cores', 'memory_gib', 'system', 'kernel', 'file_system',
         'virt_type', 'qemu', 'libvirt', 'nova', 'glance', 'python'), 'x')
    machine |= {'cores': 2, 'load_before': 0.5}
    rst = table.rst(ROWS, machine)
    assert 'no measure' not in rst
    assert 'no measure' in table.rst(ROWS, {**machine, 'load_before': 9.0})
    assert '.. list-table:: Random: medians of 1' in rst
    assert '     - 10.0' in rst
    assert '- -' not in rst


def test_every_ratio_is_explained():
    rows = [figures.Row('random', name)
            for name in ('plain', 'ceph-direct')]
    assert set(table.RATIOS) == set(figures.ratios(rows))

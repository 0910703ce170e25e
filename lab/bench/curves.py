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

"""Draw how the time grows: three panels side by side."""

import collections.abc

from lab.bench import scaling
from lab.bench import shapes
from lab.bench import table

# In pixels.
PANEL_WIDTH = 300
HEIGHT = 260
LEFT = 46
PLOT_WIDTH = PANEL_WIDTH - LEFT - 24
PLOT_TOP = 34
PLOT_HEIGHT = 150
COLORS = ('#1f77b4', '#8c564b', '#17becf')
TITLES = {'servers': 'Servers at once', 'data': 'Data, MiB',
          'virtual': 'Empty disk, GiB, reading alone'}

Points = collections.abc.Sequence[scaling.Point]


def panels(points: Points, top: float) -> list[str]:
    """Return the panels of all axes, from `top` on."""
    found = []
    axes = dict.fromkeys(one.axis for one in points)
    for number, axis in enumerate(axes):
        some = [one for one in points if one.axis == axis]
        found += [f'<g transform="translate({number * PANEL_WIDTH} {top})">',
                  *_panel(TITLES[axis], some), '</g>']
    return found


def _panel(title: str, points: Points) -> list[str]:
    """Draw an axis: sizes at equal distances, seconds to scale."""
    sizes = sorted({one.size for one in points})
    marks = shapes.ticks(max(one.seconds for one in points), 5)
    lines = [shapes.text(LEFT, 18, title, 'title')]
    for mark in marks:
        height = _height(mark, marks[-1])
        lines += [shapes.line(LEFT, height, LEFT + PLOT_WIDTH, height),
                  shapes.text(LEFT - 6, height + 4, f'{mark:g} s', 'small',
                              'end')]
    lines += [shapes.text(_across(size, sizes), PLOT_TOP + PLOT_HEIGHT + 16,
                          str(size), 'small', 'middle') for size in sizes]
    names = dict.fromkeys(one.contender for one in points)
    for number, name in enumerate(names):
        some = [one for one in points if one.contender == name]
        lines += _curve(some, sizes, marks[-1], COLORS[number])
        top = PLOT_TOP + PLOT_HEIGHT + 26 + 16 * number
        lines += [shapes.rectangle(LEFT, top, 10, 10, COLORS[number], name),
                  shapes.text(LEFT + 16, top + 9, table.title(name), 'small')]
    return lines


def _height(seconds: float, most: float) -> float:
    return PLOT_TOP + PLOT_HEIGHT * (1 - seconds / (most or 1.0))


def _across(size: int, sizes: list[int]) -> float:
    steps = max(1, len(sizes) - 1)
    return LEFT + 10 + (PLOT_WIDTH - 20) * sizes.index(size) / steps


def _curve(points: Points, sizes: list[int], most: float,
           color: str) -> list[str]:
    places = [(_across(one.size, sizes), _height(one.seconds, most))
              for one in points]
    path = ' '.join(f'{left:.1f},{top:.1f}' for left, top in places)
    return [f'<polyline points="{path}" fill="none" stroke="{color}"'
            ' stroke-width="2"/>',
            *(f'<circle cx="{left:.1f}" cy="{top:.1f}" r="3"'
              f' fill="{color}"/>' for left, top in places)]

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

"""Draw the benchmark: a bar of phases for each contender, curves of growth."""

import collections.abc
import dataclasses
import itertools
import math
from xml.sax import saxutils

from lab.bench import figures
from lab.bench import phases
from lab.bench import scaling
from lab.bench import table

# In pixels.
WIDTH = 900
LEFT = 250
RIGHT = 70
BAR = 18
STEP = 26
HEADING = 34
MARGIN = 16
TICKS_HEIGHT = 24

COLORS = {'capture': '#d62728', 'copy': '#8c564b', 'layout': '#9467bd',
          'convert': '#ff7f0e', 'read': '#17becf', 'upload': '#1f77b4',
          'verify': '#2ca02c', 'other': '#999999'}
STYLE = ('text { font: 13px sans-serif; fill: #222 }'
         ' .small { font-size: 11px; fill: #666 }'
         ' .title { font-weight: bold }'
         ' .grid { stroke: #ddd }')

Lines = list[str]


@dataclasses.dataclass(frozen=True)
class Bar:
    """A contender's median phases, in seconds."""

    title: str
    seconds: float
    phases: dict[str, float]

    @property
    def end(self) -> float:
        """Return its end, verification after the upload included."""
        return max(self.seconds, sum(self.phases.values()))


def bars(rows: figures.Rows, disk: str) -> list[Bar]:
    """Return the bars of the contenders that were timed on a disk."""
    found = []
    for name in dict.fromkeys(
            row.contender for row in figures.of(rows, disk)):
        some = figures.of(rows, disk, name)
        seconds = figures.median(some, 'seconds')
        if seconds is not None:
            found.append(Bar(table.title(name), seconds,
                             figures.median_phases(some)))
    return found


def svg(rows: figures.Rows, grown: scaling.Points = ()) -> str:
    """Return the picture."""
    top = MARGIN
    body = _legend(top)
    top += STEP + MARGIN
    for disk in figures.disks(rows):
        found = bars(rows, disk)
        if found:
            body += _bars(disk, found, top)
            top += HEADING + len(found) * STEP + TICKS_HEIGHT + MARGIN
    if grown:
        body += _curves(grown, top)
        top += PANEL_HEIGHT
    return '\n'.join([
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}"'
        f' height="{top}" viewBox="0 0 {WIDTH} {top}">',
        f'<style>{STYLE}</style>',
        f'<rect width="{WIDTH}" height="{top}" fill="white"/>',
        *body, '</svg>']) + '\n'


def _legend(top: float) -> Lines:
    found = []
    left: float = MARGIN
    for name in phases.NAMES:
        found += [_rectangle(left, top, BAR, BAR, COLORS[name], name),
                  _text(left + BAR + 6, top + BAR - 5, name)]
        left += BAR + 6 + 9 * len(name) + MARGIN
    return found


def _bars(disk: str, found: collections.abc.Sequence[Bar],
          top: float) -> Lines:
    """Draw a disk's bars, on a scale of their own."""
    marks = ticks(max(bar.end for bar in found))
    scale = (WIDTH - LEFT - RIGHT) / marks[-1]
    bottom = top + HEADING + len(found) * STEP
    lines = [_text(MARGIN, top + BAR, disk, 'title')]
    for mark in marks:
        left = LEFT + mark * scale
        lines += [_line(left, top + HEADING - 6, left, bottom),
                  _text(left, bottom + 14, f'{mark:g} s', 'small', 'middle')]
    for number, bar in enumerate(found):
        lines += _bar(bar, top + HEADING + number * STEP, scale)
    return lines


def _bar(bar: Bar, top: float, scale: float) -> Lines:
    lines = [_text(LEFT - 10, top + BAR - 5, bar.title, anchor='end')]
    known = sorted(bar.phases.items(),
                   key=lambda item: phases.NAMES.index(item[0]))
    known = known or [('other', bar.seconds)]
    ends = itertools.accumulate(seconds for _, seconds in known)
    for (name, seconds), end in zip(known, ends):
        lines.append(_rectangle(
            LEFT + (end - seconds) * scale, top, seconds * scale, BAR,
            COLORS[name], f'{name}: {seconds:.2f} s'))
    end = LEFT + scale * bar.end
    return [*lines, _text(end + 6, top + BAR - 5, f'{bar.seconds:.1f}')]


# How the time grows: three panels side by side

PANEL_WIDTH = 300
PANEL_HEIGHT = 260
PANEL_LEFT = 46
PLOT_WIDTH = PANEL_WIDTH - PANEL_LEFT - 24
PLOT_TOP = 34
PLOT_HEIGHT = 150
CURVE_COLORS = ('#1f77b4', '#8c564b', '#17becf')
TITLES = {'servers': 'Servers at once', 'data': 'Data, MiB',
          'virtual': 'Empty disk, GiB, reading alone'}


def _curves(points: scaling.Points, top: float) -> Lines:
    found = []
    for number, axis in enumerate(dict.fromkeys(one.axis for one in points)):
        some = [one for one in points if one.axis == axis]
        found += [f'<g transform="translate({number * PANEL_WIDTH} {top})">',
                  *_panel(TITLES[axis], some), '</g>']
    return found


def _panel(title: str, points: scaling.Points) -> Lines:
    """Draw an axis: sizes at equal distances, seconds to scale."""
    sizes = sorted({one.size for one in points})
    marks = ticks(max(one.seconds for one in points), 5)
    lines = [_text(PANEL_LEFT, 18, title, 'title')]
    for mark in marks:
        height = _height(mark, marks[-1])
        lines += [_line(PANEL_LEFT, height, PANEL_LEFT + PLOT_WIDTH, height),
                  _text(PANEL_LEFT - 6, height + 4, f'{mark:g} s', 'small',
                        'end')]
    bottom = PLOT_TOP + PLOT_HEIGHT
    lines += [_text(_across(size, sizes), bottom + 16, str(size), 'small',
                    'middle') for size in sizes]
    names = dict.fromkeys(one.contender for one in points)
    for (number, name), color in zip(enumerate(names), CURVE_COLORS):
        lines += _curve([one for one in points if one.contender == name],
                        sizes, marks[-1], color)
        top = bottom + 26 + 16 * number
        lines += [_rectangle(PANEL_LEFT, top, 10, 10, color, name),
                  _text(PANEL_LEFT + 16, top + 9, table.title(name), 'small')]
    return lines


def _height(seconds: float, most: float) -> float:
    return PLOT_TOP + PLOT_HEIGHT * (1 - seconds / (most or 1.0))


def _across(size: int, sizes: list[int]) -> float:
    steps = max(1, len(sizes) - 1)
    return PANEL_LEFT + 10 + (PLOT_WIDTH - 20) * sizes.index(size) / steps


def _curve(points: scaling.Points, sizes: list[int], most: float,
           color: str) -> Lines:
    places = [(_across(one.size, sizes), _height(one.seconds, most))
              for one in points]
    path = ' '.join(f'{left:.1f},{top:.1f}' for left, top in places)
    return [f'<polyline points="{path}" fill="none" stroke="{color}"'
            ' stroke-width="2"/>',
            *(f'<circle cx="{left:.1f}" cy="{top:.1f}" r="3"'
              f' fill="{color}"/>' for left, top in places)]


# Shapes


def _text(left: float, top: float, words: str, kind: str = '',
          anchor: str = 'start') -> str:
    """Draw words; `anchor` says which of their ends `left` is."""
    return (f'<text x="{left:.1f}" y="{top:.1f}" class="{kind}"'
            f' text-anchor="{anchor}">{saxutils.escape(words)}</text>')


def _rectangle(left: float, top: float, width: float, height: float,
               color: str, words: str) -> str:
    """Draw a rectangle with words as its tooltip."""
    return (f'<rect x="{left:.1f}" y="{top:.1f}" width="{width:.1f}"'
            f' height="{height}" fill="{color}">'
            f'<title>{saxutils.escape(words)}</title></rect>')


def _line(left: float, top: float, right: float, bottom: float) -> str:
    return (f'<line class="grid" x1="{left:.1f}" y1="{top:.1f}"'
            f' x2="{right:.1f}" y2="{bottom:.1f}"/>')


def ticks(longest: float, most: int = 8) -> list[float]:
    """Return some round numbers from 0 to at least the longest."""
    rough = longest / most or 1.0
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10)
                if power * factor >= rough)
    return [round(number * step, 6)
            for number in range(math.ceil(longest / step) + 1)]

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

"""The benchmark as a picture: phases stacked, a bar for each contender."""

import collections.abc
import dataclasses
import itertools
import math
from xml.sax import saxutils

from lab.bench import figures
from lab.bench import phases
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

COLORS = {'capture': '#d62728', 'copy': '#8c564b', 'survey': '#9467bd',
          'convert': '#ff7f0e', 'read': '#17becf', 'upload': '#1f77b4',
          'verify': '#2ca02c', 'other': '#999999'}
STYLE = ('text { font: 13px sans-serif; fill: #222 }'
         ' .small { font-size: 11px; fill: #666 }'
         ' .title { font-weight: bold }'
         ' .grid { stroke: #ddd }')


@dataclasses.dataclass(frozen=True)
class Bar:
    """One contender's median: what it spent its time on, in seconds."""

    title: str
    seconds: float
    phases: dict[str, float]


def bars(rows: figures.Rows, disk: str) -> list[Bar]:
    """The bars of a disk, of those contenders that were timed."""
    found = []
    names = dict.fromkeys(row.contender for row in figures.of(rows, disk))
    for name in names:
        some = figures.of(rows, disk, name)
        seconds = figures.median(some, 'seconds')
        if seconds is not None:
            found.append(Bar(table.title(name), seconds,
                             figures.median_phases(some)))
    return found


def ticks(longest: float, most: int = 8) -> list[float]:
    """Round numbers from 0 to at least the longest, a few of them."""
    rough = longest / most or 1.0
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10)
                if power * factor >= rough)
    return [round(number * step, 6)
            for number in range(math.ceil(longest / step) + 1)]


def svg(rows: figures.Rows) -> str:
    """The picture."""
    top = MARGIN
    body = _legend(top)
    top += STEP + MARGIN
    for disk in figures.disks(rows):
        found = bars(rows, disk)
        if found:
            body += _panel(disk, found, top)
            top += HEADING + len(found) * STEP + TICKS_HEIGHT + MARGIN
    return '\n'.join([
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}"'
        f' height="{top}" viewBox="0 0 {WIDTH} {top}">',
        f'<style>{STYLE}</style>',
        f'<rect width="{WIDTH}" height="{top}" fill="white"/>',
        *body, '</svg>']) + '\n'


def _text(left: float, top: float, words: str, kind: str = '',
          anchor: str = 'start') -> str:
    return (f'<text x="{left:.1f}" y="{top:.1f}" class="{kind}"'
            f' text-anchor="{anchor}">{saxutils.escape(words)}</text>')


def _rectangle(left: float, top: float, width: float, color: str,
               words: str = '') -> str:
    return (f'<rect x="{left:.1f}" y="{top:.1f}" width="{width:.1f}"'
            f' height="{BAR}" fill="{color}">'
            f'<title>{saxutils.escape(words)}</title></rect>')


def _legend(top: float) -> list[str]:
    found = []
    left: float = MARGIN
    for name in phases.NAMES:
        found += [_rectangle(left, top, BAR, COLORS[name], name),
                  _text(left + BAR + 6, top + BAR - 5, name)]
        left += BAR + 6 + 9 * len(name) + MARGIN
    return found


def _panel(disk: str, found: collections.abc.Sequence[Bar],
           top: float) -> list[str]:
    """A disk's bars, on a scale of their own."""
    marks = ticks(max(max(bar.seconds, sum(bar.phases.values()))
                      for bar in found))
    scale = (WIDTH - LEFT - RIGHT) / marks[-1]
    bottom = top + HEADING + len(found) * STEP
    lines = [_text(MARGIN, top + BAR, disk, 'title')]
    for mark in marks:
        left = LEFT + mark * scale
        lines += [f'<line class="grid" x1="{left:.1f}" x2="{left:.1f}"'
                  f' y1="{top + HEADING - 6}" y2="{bottom}"/>',
                  _text(left, bottom + 14, f'{mark:g} s', 'small', 'middle')]
    for number, bar in enumerate(found):
        lines += _bar(bar, top + HEADING + number * STEP, scale)
    return lines


def _bar(bar: Bar, top: float, scale: float) -> list[str]:
    lines = [_text(LEFT - 10, top + BAR - 5, bar.title, anchor='end')]
    known = sorted(bar.phases.items(),
                   key=lambda item: phases.NAMES.index(item[0]))
    known = known or [('other', bar.seconds)]
    ends = itertools.accumulate(seconds for _, seconds in known)
    for (name, seconds), end in zip(known, ends):
        lines.append(_rectangle(LEFT + (end - seconds) * scale, top,
                                seconds * scale, COLORS[name],
                                f'{name}: {seconds:.2f} s'))
    end = LEFT + scale * max(bar.seconds, sum(bar.phases.values()))
    return [*lines, _text(end + 6, top + BAR - 5, f'{bar.seconds:.1f}')]

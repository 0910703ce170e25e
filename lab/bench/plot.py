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

"""Draw the benchmark: a bar of phases for each contender."""

import collections.abc
import dataclasses
import itertools

from lab.bench import curves
from lab.bench import figures
from lab.bench import phases
from lab.bench import scaling
from lab.bench import shapes
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
    names = dict.fromkeys(row.contender for row in figures.of(rows, disk))
    for name in names:
        some = figures.of(rows, disk, name)
        seconds = figures.median(some, 'seconds')
        if seconds is not None:
            found.append(Bar(table.title(name), seconds,
                             figures.median_phases(some)))
    return found


def svg(rows: figures.Rows,
        grown: collections.abc.Sequence[scaling.Point] = ()) -> str:
    """Return the picture."""
    top = MARGIN
    body = _legend(top)
    top += STEP + MARGIN
    for disk in figures.disks(rows):
        found = bars(rows, disk)
        if found:
            body += _panel(disk, found, top)
            top += HEADING + len(found) * STEP + TICKS_HEIGHT + MARGIN
    if grown:
        body += curves.panels(grown, top)
        top += curves.HEIGHT
    return '\n'.join([
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}"'
        f' height="{top}" viewBox="0 0 {WIDTH} {top}">',
        f'<style>{shapes.STYLE}</style>',
        f'<rect width="{WIDTH}" height="{top}" fill="white"/>',
        *body, '</svg>']) + '\n'


def _legend(top: float) -> list[str]:
    found = []
    left: float = MARGIN
    for name in phases.NAMES:
        found += [shapes.rectangle(left, top, BAR, BAR, COLORS[name], name),
                  shapes.text(left + BAR + 6, top + BAR - 5, name)]
        left += BAR + 6 + 9 * len(name) + MARGIN
    return found


def _panel(disk: str, found: collections.abc.Sequence[Bar],
           top: float) -> list[str]:
    """Draw a disk's bars, on a scale of their own."""
    marks = shapes.ticks(max(bar.end for bar in found))
    scale = (WIDTH - LEFT - RIGHT) / marks[-1]
    bottom = top + HEADING + len(found) * STEP
    lines = [shapes.text(MARGIN, top + BAR, disk, 'title')]
    for mark in marks:
        left = LEFT + mark * scale
        lines += [shapes.line(left, top + HEADING - 6, left, bottom),
                  shapes.text(left, bottom + 14, f'{mark:g} s', 'small',
                              'middle')]
    for number, bar in enumerate(found):
        lines += _bar(bar, top + HEADING + number * STEP, scale)
    return lines


def _bar(bar: Bar, top: float, scale: float) -> list[str]:
    lines = [shapes.text(LEFT - 10, top + BAR - 5, bar.title, anchor='end')]
    known = sorted(bar.phases.items(),
                   key=lambda item: phases.NAMES.index(item[0]))
    known = known or [('other', bar.seconds)]
    ends = itertools.accumulate(seconds for _, seconds in known)
    for (name, seconds), end in zip(known, ends):
        lines.append(shapes.rectangle(
            LEFT + (end - seconds) * scale, top, seconds * scale, BAR,
            COLORS[name], f'{name}: {seconds:.2f} s'))
    end = LEFT + scale * bar.end
    return [*lines, shapes.text(end + 6, top + BAR - 5, f'{bar.seconds:.1f}')]

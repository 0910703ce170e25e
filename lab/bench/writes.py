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

"""Draw how often a guest writes, as lines of text."""

import collections
import collections.abc
import math

COLUMNS = 60
# A few writes: one or two in turn would look like gaps.
SHORTEST_SECONDS = 0.5
BARS = ' ▁▂▃▄▅▆▇█'


def picture(rows: collections.abc.Mapping[str, tuple[float, ...]]) -> str:
    """Return a line for each title, all to the same scale.

    :param rows: when the guest wrote, in seconds from the first write on
    """
    column = max(SHORTEST_SECONDS, *(
        max(times) / COLUMNS for times in rows.values()))
    counts = {title: collections.Counter(int(time / column) for time in times)
              for title, times in rows.items()}
    most = max(max(count.values()) for count in counts.values())
    lines = [f'writes of the guest, a column for each {column:.2f} s:', '']
    lines += [f'{title:12}{_bars(count, most)} {max(rows[title]):.1f} s'
              for title, count in counts.items()]
    return '\n'.join(lines)


def _bars(count: collections.Counter[int], most: int) -> str:
    """Return a bar for each column; none where nothing was written."""
    return ''.join(BARS[math.ceil(count[number] * (len(BARS) - 1) / most)]
                   for number in range(max(count) + 1))

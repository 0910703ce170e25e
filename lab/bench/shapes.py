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

"""Draw pieces of an SVG, and place the marks of its scales."""

import math
from xml.sax import saxutils

STYLE = ('text { font: 13px sans-serif; fill: #222 }'
         ' .small { font-size: 11px; fill: #666 }'
         ' .title { font-weight: bold }'
         ' .grid { stroke: #ddd }')


def text(left: float, top: float, words: str, kind: str = '',
         anchor: str = 'start') -> str:
    """Draw words; `anchor` says which of their ends `left` is."""
    return (f'<text x="{left:.1f}" y="{top:.1f}" class="{kind}"'
            f' text-anchor="{anchor}">{saxutils.escape(words)}</text>')


def rectangle(left: float, top: float, width: float, height: float,
              color: str, words: str) -> str:
    """Draw a rectangle with words as its tooltip."""
    return (f'<rect x="{left:.1f}" y="{top:.1f}" width="{width:.1f}"'
            f' height="{height}" fill="{color}">'
            f'<title>{saxutils.escape(words)}</title></rect>')


def line(left: float, top: float, right: float, bottom: float) -> str:
    """Draw a line of the grid."""
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

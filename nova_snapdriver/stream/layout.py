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

"""The parts of an image, in the order in which they are sent.

A layout knows the exact length of the image before its first byte, and gives
the image as segments: metadata as bytes, ranges to read from the disk, zeros.
"""

from collections.abc import Iterator
import dataclasses
from typing import Protocol

from nova_snapdriver.stream import extents


@dataclasses.dataclass(frozen=True)
class Read:
    """A range of the disk, in bytes."""

    offset: int
    length: int


@dataclasses.dataclass(frozen=True)
class Zeros:
    """A number of zero bytes."""

    length: int


Segment = bytes | Read | Zeros


def read(clusters: extents.ClusterMap, first: int, end: int) -> Read:
    """The range of a run of clusters, up to the disk's end."""
    start = first * clusters.cluster_size
    return Read(start,
                min(end * clusters.cluster_size, clusters.disk_size) - start)


def reads(clusters: extents.ClusterMap) -> Iterator[Read]:
    """The ranges of all data clusters, in order."""
    for first, end in clusters.runs():
        yield read(clusters, first, end)


class Layout(Protocol):
    """An image format applied to one disk."""

    def __init__(self, clusters: extents.ClusterMap) -> None:
        """:param clusters: which clusters of the disk hold data"""

    @property
    def length(self) -> int:
        """The length of the whole image in bytes."""

    def segments(self) -> Iterator[Segment]:
        """The image from its first byte to its last."""

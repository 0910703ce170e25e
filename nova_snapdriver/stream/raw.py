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

"""The raw format: the disk's bytes, all of them."""

from collections.abc import Iterator

from nova_snapdriver.stream import extents
from nova_snapdriver.stream import layout


class RawLayout:
    """A raw image of a disk: its whole virtual size."""

    def __init__(self, clusters: extents.ClusterMap) -> None:
        self._map = clusters
        self.length = clusters.disk_size

    def segments(self) -> Iterator[layout.Segment]:
        position = 0
        for first, end in self._map.runs():
            start = first * self._map.cluster_size
            stop = min(end * self._map.cluster_size, self.length)
            if start > position:
                yield layout.Zeros(start - position)
            yield layout.Read(start, stop - start)
            position = stop
        if position < self.length:
            yield layout.Zeros(self.length - position)

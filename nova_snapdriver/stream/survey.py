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

"""The first pass over a disk: how long each cluster is in the image.

The export shows one point in time, so a second pass reads the same.
"""

import array
from collections.abc import Callable
from collections.abc import Iterator
import dataclasses

from nova_snapdriver.stream import compressor
from nova_snapdriver.stream import extents
from nova_snapdriver.stream import keep as stream_keep
from nova_snapdriver.stream import layout
from nova_snapdriver.stream import pipeline

Progress = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True)
class Settings:
    """How to survey a disk.

    :param codec: a name of codec.COMPRESSORS; None to look for zeros only
    :param threads: number of threads that compress
    """

    codec: str | None
    threads: int


class _Survey:
    """Notes the size of each cluster.

    :param clusters: the map; clusters of zeros are cleared in it, behind the
        reader: a second map would take another 16 MiB for 8 TiB
    """

    def __init__(self, clusters: extents.ClusterMap, keep: stream_keep.Keep,
                 progress: Progress) -> None:
        self._clusters = clusters
        self._keep = keep
        self._progress = progress
        self._all = clusters.count()
        self._done = 0
        self.sizes = array.array('H')

    def give(self, block: pipeline.Block,
             packed: list[compressor.Packed]) -> None:
        first = block.offset // extents.CLUSTER_SIZE
        for cluster, content in enumerate(packed, first):
            if content is compressor.ZEROS:
                self._clusters.clear(cluster)
                continue
            self.sizes.append(len(content))
            if content:
                self._keep.append(content)
        self._done += len(packed)
        self._progress(self._done * extents.CLUSTER_SIZE,
                       self._all * extents.CLUSTER_SIZE)


def survey(source: pipeline.Source, clusters: extents.ClusterMap,
           settings: Settings, keep: stream_keep.Keep,
           check: Callable[[], None],
           progress: Progress) -> extents.SurveyedMap:
    """Read all data of a disk.

    :param clusters: the map; it loses the clusters that read as zeros
    :param keep: gets the compressed clusters
    :param check: raises if the image is not wanted any more
    :param progress: called with the bytes read, and those to be read
    :raises ExportError: the source failed
    """
    notes = _Survey(clusters, keep, progress)
    with compressor.Compressor(settings.codec, settings.threads, notes.give,
                               check) as packing:
        pipeline.Reader(source, packing).run(_reads(clusters))
    return extents.SurveyedMap(clusters, notes.sizes)


def _reads(clusters: extents.ClusterMap) -> Iterator[layout.Read]:
    for first, end in clusters.runs():
        start = first * clusters.cluster_size
        stop = min(end * clusters.cluster_size, clusters.disk_size)
        yield layout.Read(start, stop - start)

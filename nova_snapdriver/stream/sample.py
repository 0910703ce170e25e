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

"""Predicts from a part of a disk how much room its data take in an image.

One cluster of each k, compressed as it will be. Neighbours resemble each
other, so this predicts far better than clusters at random places: of system
files, 2% predict the size with a standard deviation of 1.0%, and of 2.8% at
random places. Which one of the k is random: a disk may have a period.
"""

import array
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
import dataclasses
import itertools
import math
import random
import time

from nova_snapdriver.stream import compressor
from nova_snapdriver.stream import extents
from nova_snapdriver.stream import layout
from nova_snapdriver.stream import packer
from nova_snapdriver.stream import pipeline

# The first sample: one cluster of 64, at least 500 and at most 8192 of them.
_STEP = 64
_LEAST = 500
_MOST = 8192

# It is doubled until the margin is this part of the image, or what is sampled
# costs as much as compressing one of so many clusters of data. One of 16 takes
# 0.2 s for 1 GiB on two cores. Zeros and what does not shrink are only read,
# or given up soon: a fifth of that.
_MARGINS = ((0.025, 16), (0.05, 11))
_CHEAP = 0.2

# Standard deviations that the image has room for: one in 1000 takes more. Half
# of what the harder level saves is no room before the tables, as it is found
# in time that it is needed; but so many deviations always are.
_DEVIATIONS = 3.2
_HARDER_COUNTS = 0.5
_LEAST_DEVIATIONS = 2

# The sampled clusters that are compressed harder, too, for that.
_HARDER = 64

# What a sample has not seen may be there: among nothing but zeros, as if so
# many more of the sampled clusters were data; among what shrinks, as if so
# many more did not.
_UNSEEN = 9
_UNSEEN_PLAIN = 0.75

# A disk is slow if it takes longer for so many single clusters. Then each
# sample is a run of clusters: one seek for eight.
_PROBE = 16
_PROBE_SECONDS = 0.1
_RUN = 8


@dataclasses.dataclass(frozen=True)
class Settings:
    """How the clusters of an image are made.

    :param codec: a name of codec.COMPRESSORS; None to look for zeros only
    :param threads: number of threads that compress
    """

    codec: str | None
    threads: int

    @property
    def plain_bytes(self) -> int:
        """The most room that a plain cluster takes."""
        lost = 0 if self.codec is None else packer.LOST
        return extents.CLUSTER_SIZE + lost


@dataclasses.dataclass(frozen=True)
class Sample:
    """What sampled clusters take in an image.

    :param runs: of each sampled run of clusters, in order: bytes in the image
    :param run: clusters in a run
    :param whole: data clusters of the disk
    :param plain_bytes: the most room that a plain cluster takes
    :param harder: part of its bytes that a cluster which shrinks takes less if
        it is compressed harder
    """

    runs: 'array.array[int]'
    run: int
    whole: int
    plain_bytes: int = extents.CLUSTER_SIZE
    harder: float = 0.0

    @property
    def clusters(self) -> int:
        """The number of sampled clusters."""
        return len(self.runs) * self.run

    @property
    def scale(self) -> float:
        """Clusters of the disk for each sampled one."""
        return self.whole / self.clusters

    @property
    def zeros(self) -> int:
        """The number of sampled runs that are all zeros."""
        return self.runs.count(0)

    @property
    def plain(self) -> int:
        """The number of sampled runs that do not shrink."""
        return self.runs.count(self.plain_bytes * self.run)

    @property
    def saved(self) -> float:
        """Bytes that compressing all clusters harder would save."""
        shrunk = sum(self.runs) - self.plain * self.plain_bytes * self.run
        return self.harder * shrunk * self.scale

    @property
    def expected(self) -> float:
        """Bytes that all clusters take."""
        return sum(self.runs) * self.scale

    @property
    def margin(self) -> float:
        """Bytes that they may take beyond what is expected.

        From the differences between neighbours: a disk that is of one kind
        here and of another there is sampled in both.
        """
        differences = sum(
            (after - before) ** 2
            for before, after in itertools.pairwise(self.runs)) / 2
        shrunk = len(self.runs) - self.zeros - self.plain
        unseen = (extents.CLUSTER_SIZE * self.run) ** 2 * (
            _UNSEEN * self.zeros + _UNSEEN_PLAIN * shrunk) / len(self.runs)
        missed = max(0.0, 1 - 1 / self.scale)
        deviation = self.scale * math.sqrt(missed * (differences + unseen))
        return max(_LEAST_DEVIATIONS * deviation,
                   _DEVIATIONS * deviation - _HARDER_COUNTS * self.saved)

    def rest(self) -> list[float]:
        """Bytes that the clusters from each sampled run on take."""
        sums = list(itertools.accumulate(
            reversed(self.runs), initial=0))
        return [total * self.scale for total in reversed(sums)]


class Sampler:
    """Samples the data of a disk.

    :param check: raises if the image is not wanted any more
    """

    def __init__(self, source: pipeline.Source, clusters: extents.ClusterMap,
                 settings: Settings, check: Callable[[], None]) -> None:
        self._source = source
        self._clusters = clusters
        self._settings = settings
        self._check = check
        self._whole = clusters.count()

    def take(self) -> Sample:
        """Sample the disk, which has data.

        :raises ExportError: the source failed
        """
        step = max(1, min(_STEP, self._whole // _LEAST), self._whole // _MOST)
        step = 1 << step.bit_length() - 1       # it is halved
        run = min(self._run(), self._whole)
        sizes: dict[int, int] = {}
        while True:
            self._add(sizes, step, run)
            found = Sample(
                array.array('Q', (sizes[one] for one in sorted(sizes))),
                run, self._whole, self._settings.plain_bytes)
            if step == 1 or not _is_coarse(found, self._settings.codec):
                return dataclasses.replace(
                    found, harder=self._harder(sizes, run))
            step //= 2

    def _add(self, sizes: dict[int, int], step: int, run: int) -> None:
        """Sample a run of each group that has none yet.

        :param sizes: bytes that each sampled run takes, by its number
        :param step: runs in a group
        """
        groups = {number // step for number in sizes}
        runs = self._whole // run
        numbers = [
            min(group * step + random.randrange(step), runs - 1)
            for group in range(-(-runs // step)) if group not in groups]
        sizes.update(zip(numbers, self._sizes(
            numbers, run, self._settings.codec), strict=True))

    def _harder(self, sizes: dict[int, int], run: int) -> float:
        """The part of its bytes that compressing harder saves, see Sample."""
        plain = self._settings.plain_bytes * run
        shrunk = [one for one in sorted(sizes) if 0 < sizes[one] < plain]
        some = shrunk[::-(-len(shrunk) * run // _HARDER) or 1]
        usual = sum(sizes[one] for one in some)
        if self._settings.codec is None or not usual:
            return 0.0
        harder = sum(self._sizes(some, run, self._settings.codec, 0))
        return max(0.0, 1 - harder / usual)

    def _run(self) -> int:
        """The number of clusters in a sampled run."""
        began = time.monotonic()
        self._sizes(range(0, self._whole, -(-self._whole // _PROBE)), 1, None)
        return _RUN if time.monotonic() - began > _PROBE_SECONDS else 1

    def _sizes(self, numbers: Sequence[int], run: int, codec: str | None,
               harder_from: int | None = None) -> 'array.array[int]':
        """The bytes that each of some runs takes, which are in order."""
        sizes = array.array('Q')
        plain = self._settings.plain_bytes

        def give(block: pipeline.Block,
                 packed: list[compressor.Packed]) -> None:
            sizes.extend(
                0 if content is compressor.ZEROS
                else len(content) or plain for content in packed)

        with compressor.Compressor(codec, self._settings.threads, give,
                                   self._check, harder_from) as packing:
            pipeline.Reader(self._source, packing).run(
                self._reads(numbers, run))
        return array.array('Q', map(sum, zip(*[iter(sizes)] * run)))

    def _reads(self, numbers: Sequence[int],
               run: int) -> Iterator[layout.Read]:
        """The data clusters of runs, as far as they lie together."""
        before = behind = first = 0
        runs = self._clusters.runs()
        for number in numbers:
            at, end = number * run, (number + 1) * run
            while at < end:
                while at >= behind:
                    first, last = next(runs)
                    before, behind = behind, behind + last - first
                count = min(end, behind) - at
                place = first + at - before
                yield layout.read(self._clusters, place, place + count)
                at += count


def _is_coarse(found: Sample, codec: str | None) -> bool:
    """Whether a sample is to be doubled."""
    cost: float = found.clusters
    if found.run == 1:
        cheap = (len(found.runs) if codec is None
                 else found.zeros + found.plain)
        cost -= (1 - _CHEAP) * cheap
    return any(found.margin > margin * found.expected and
               2 * cost <= max(found.whole // part, _LEAST)
               for margin, part in _MARGINS)

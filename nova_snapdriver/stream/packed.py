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

"""An image whose clusters are compressed, or left out, while it is sent."""

import dataclasses

from nova_snapdriver.stream import compressor
from nova_snapdriver.stream import extents
from nova_snapdriver.stream import layout
from nova_snapdriver.stream import packer as stream_packer
from nova_snapdriver.stream import pipeline
from nova_snapdriver.stream import qcow2_packed
from nova_snapdriver.stream import sample as stream_sample

# What is left of the data that are compressed harder: of system files 0.93
# with zstd and 0.94 with zlib.
_HARDER = 0.92

# The margin of a sample is 2.5 standard deviations, and up to 3.5 the more
# clusters are zeros or not compressed. Of the share for what is still to come,
# this part is enough: with less, the rest is compressed harder.
_ENOUGH = 0.7


class Outgrown(Exception):
    """More room than predicted is needed.

    :param place: place of the tables, in clusters, that the data need by what
        is known now
    """

    def __init__(self, place: int) -> None:
        super().__init__('the image needs %d clusters before its tables' %
                         place)
        self.place = place


class _Forecast:
    """Compares what is used with what was predicted.

    :param room: bytes before the tables
    """

    def __init__(self, sample: stream_sample.Sample, room: int) -> None:
        self._sample = sample
        self._rest = sample.rest()
        self._margin = sample.margin
        self._room = room

    def rest(self, done: int) -> float:
        """Bytes that all but so many clusters take."""
        at = done * len(self._sample.runs) / self._sample.whole
        run = min(int(at), len(self._sample.runs) - 1)
        here, after = self._rest[run:run + 2]
        return here - (here - after) * (at - run)

    def is_tight(self, used: int, done: int) -> bool:
        """Whether the rest should be compressed harder: if that helps."""
        left = 1 - done / self._sample.whole
        return self._sample.harder > 0 and (
            used + self.rest(done) + _ENOUGH * self._margin * left >
            self._room)

    def is_hopeless(self, used: int, done: int) -> bool:
        return used + _HARDER * self.rest(done) > self._room


@dataclasses.dataclass
class PackedImage:
    """An image with its tables at a predicted place.

    :param sample: what the place was predicted from; None if it was given
    :param harder_from: see :class:`compressor.Compressor`
    """

    clusters: extents.ClusterMap
    settings: stream_sample.Settings
    layout: qcow2_packed.PackedLayout
    sample: stream_sample.Sample | None = None
    harder_from: int | None = None
    gap: int = 0

    @property
    def length(self) -> int:
        return self.layout.length

    @property
    def about(self) -> dict[str, object]:
        about: dict[str, object] = {'place': self.layout.place}
        if self.sample is not None:
            about.update(sampled=self.sample.clusters,
                         predicted=int(self.sample.expected),
                         margin=int(self.sample.margin))
        return about

    @property
    def outcome(self) -> dict[str, object]:
        return {'gap': self.gap, 'harder_from': self.harder_from}

    def write(self, source: pipeline.Source, writer: pipeline.Writer) -> None:
        """Send the image.

        :raises ExportError: the source failed
        :raises PipeClosed: the reader of the image is gone
        :raises Outgrown: the data do not fit
        """
        filler = pipeline.Filler(writer)
        packer = stream_packer.Packer(self.layout, filler.add)
        _Pass(self, packer).run(source, writer)
        self.gap = packer.gap
        filler.zeros(packer.gap)
        for table in self.layout.tables(packer.l1, packer.refcounts):
            filler.add(memoryview(table))
        filler.flush()


class _Pass:
    """The pass over the disk."""

    def __init__(self, image: PackedImage,
                 packer: stream_packer.Packer) -> None:
        self._image = image
        self._packer = packer
        self._done = 0
        self._forecast = None if image.sample is None else _Forecast(
            image.sample, packer.gap + packer.used)

    def run(self, source: pipeline.Source, writer: pipeline.Writer) -> None:
        image = self._image
        try:
            with compressor.Compressor(
                    image.settings.codec, image.settings.threads, self._give,
                    writer.check, image.harder_from) as self._packing:
                pipeline.Reader(source, self._packing).run(
                    layout.reads(image.clusters))
            self._packer.finish()
        except stream_packer.Outgrown as ex:
            raise Outgrown(self._needed()) from ex
        image.harder_from = self._packing.harder_from

    def _give(self, block: pipeline.Block,
              packed: list[compressor.Packed]) -> None:
        first = block.offset // extents.CLUSTER_SIZE
        for number, content in enumerate(packed):
            if content:
                self._packer.packed(first + number, content)
            elif content is not compressor.ZEROS:
                self._packer.plain(first + number, compressor.cluster(
                    block.content, number))
        self._done += len(packed)
        self._look_ahead()

    def _look_ahead(self) -> None:
        if self._forecast is None:
            return
        used = self._packer.used
        if self._forecast.is_tight(used, self._done):
            self._packing.harder()
        if self._forecast.is_hopeless(used, self._done):
            raise stream_packer.Outgrown('the data will not fit')

    def _needed(self) -> int:
        """The place of the tables that the data need, by what is known.

        What was not predicted may go on: so twice as much.
        """
        rest = (self._forecast.rest(self._done) if self._forecast else 0.0)
        whole = self._packer.used + rest
        more = whole - (self._packer.used + self._packer.gap)
        return int((whole + max(0.0, more)) * 1.02) // (
            extents.CLUSTER_SIZE) + 2

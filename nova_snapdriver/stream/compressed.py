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

"""Write a compressed image: the second pass, after the survey."""

import dataclasses

from nova_snapdriver.stream import codec as stream_codec
from nova_snapdriver.stream import compressor
from nova_snapdriver.stream import extents
from nova_snapdriver.stream import keep as stream_keep
from nova_snapdriver.stream import nbd
from nova_snapdriver.stream import pipeline
from nova_snapdriver.stream import qcow2_compressed
from nova_snapdriver.stream import survey


@dataclasses.dataclass(frozen=True)
class CompressedImage:
    """A compressed image of a surveyed disk.

    :param keep: the compressed clusters that the survey has kept; the others
        are compressed again
    """

    found: extents.SurveyedMap
    settings: survey.Settings
    keep: stream_keep.Keep
    layout: qcow2_compressed.CompressedLayout

    @property
    def length(self) -> int:
        return self.layout.length

    def write(self, source: pipeline.Source, writer: pipeline.Writer) -> None:
        """Send the image.

        :raises ExportError: the source failed, or its data have changed
        :raises PipeClosed: the reader of the image is gone
        """
        reader = pipeline.Reader(source, writer)
        reader.run(self.layout.segments())
        filler = pipeline.Filler(writer)
        for chunk in self.keep.chunks():
            filler.add(chunk)
        self._again(source, writer, filler)
        filler.add(memoryview(bytes(self.layout.padding)))
        filler.flush()

    def _again(self, source: pipeline.Source, writer: pipeline.Writer,
               filler: pipeline.Filler) -> None:
        """Compress the clusters that were not kept."""
        sizes = filter(None, self.found.sizes)
        for _ in range(self.keep.clusters):
            next(sizes)

        codec = self.settings.codec
        assert codec is not None

        def give(block: pipeline.Block,
                 packed: list[compressor.Packed]) -> None:
            for cluster, content in zip(compressor.clusters(block.content),
                                        packed, strict=True):
                filler.add(memoryview(_fitted(
                    codec, block.offset, cluster, content, next(sizes))))

        with compressor.Compressor(codec, self.settings.threads,
                                   give, writer.check) as packing:
            pipeline.Reader(source, packing).run(
                self.layout.rest(self.keep.clusters))


def _fitted(codec: str, offset: int, cluster: memoryview,
            content: compressor.Packed, length: int) -> bytes:
    """:raises ExportError: the cluster held other data in the survey"""
    if content is not compressor.ZEROS:
        found = stream_codec.fitted(codec, cluster, content, length)
        if found is not None:
            return found
    raise nbd.ExportError(
        'the data near %d compressed to %d bytes, and to %d when they were '
        'surveyed' % (offset, len(content or b''), length))

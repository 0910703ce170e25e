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

"""An image as the process sends it."""

import dataclasses
from typing import Protocol

from nova_snapdriver.stream import layout
from nova_snapdriver.stream import pipeline


class Image(Protocol):
    """An image that is laid out."""

    @property
    def length(self) -> int:
        """The length of the whole image in bytes."""

    @property
    def about(self) -> dict[str, object]:
        """How it is laid out, for the log and to make it again."""

    @property
    def outcome(self) -> dict[str, object]:
        """What came of it, once it is written."""

    def write(self, source: pipeline.Source, writer: pipeline.Writer) -> None:
        """Send the image from its first byte to its last."""


@dataclasses.dataclass(frozen=True)
class PlainImage:
    """An image that holds the disk's bytes as they are.

    :param why: why it is not packed, in words; empty if nobody asked
    """

    layout: layout.Layout
    why: str = ''

    @property
    def length(self) -> int:
        return self.layout.length

    @property
    def about(self) -> dict[str, object]:
        return {'place': 0, 'plain': self.why}

    @property
    def outcome(self) -> dict[str, object]:
        return {}

    def write(self, source: pipeline.Source, writer: pipeline.Writer) -> None:
        pipeline.Reader(source, writer).run(self.layout.segments())

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

"""The image formats: a row for each, which both ends of the stream read.

nova-compute reads their names and what they can do; the stream process lays
out its image with them. So nothing is imported here that reads or writes.
"""

import dataclasses

from nova_snapdriver.stream import layout
from nova_snapdriver.stream import qcow2
from nova_snapdriver.stream import qcow2_compressed
from nova_snapdriver.stream import raw


@dataclasses.dataclass(frozen=True)
class Format:
    """An image format.

    :param plain: lays out an image that holds the disk's bytes as they are
    :param compressed: lays out an image of compressed clusters; None for a
        format without them
    :param sparse: whether a cluster of zeros takes no room in an image
    """

    plain: type[layout.Layout]
    compressed: type[qcow2_compressed.CompressedLayout] | None = None
    sparse: bool = False


FORMATS = {
    'qcow2': Format(qcow2.Qcow2Layout, qcow2_compressed.CompressedLayout,
                    sparse=True),
    'raw': Format(raw.RawLayout),
}

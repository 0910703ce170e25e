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
from nova_snapdriver.stream import qcow2_packed
from nova_snapdriver.stream import raw


@dataclasses.dataclass(frozen=True)
class Format:
    """An image format.

    :param plain: lays out an image that holds the disk's bytes as they are
    :param packed: lays out an image whose clusters are compressed, or left
        out, while it is sent; None for a format that cannot be made so
    """

    plain: type[layout.Layout]
    packed: type[qcow2_packed.PackedLayout] | None = None


FORMATS = {
    'qcow2': Format(qcow2.Qcow2Layout, qcow2_packed.PackedLayout),
    'raw': Format(raw.RawLayout),
}

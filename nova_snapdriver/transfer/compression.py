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

"""Choose how an image is compressed, from nova.conf and the host."""

from typing import Any

from oslo_log import log as logging

from nova_snapdriver.stream import codec as stream_codec
from nova_snapdriver.stream import formats
from nova_snapdriver.transfer import process

LOG = logging.getLogger(__name__)


def codec(conf: Any) -> str | None:
    """The codec for qcow2 images that nova.conf asks for; None for plain ones.

    :param conf: nova.conf
    """
    if conf.snapdriver.compression != 'none':
        return str(conf.snapdriver.compression)
    return 'zlib' if conf.libvirt.snapshot_compression else None


def choose(conf: Any, image_format: str,
           instance: Any) -> process.Compression:
    """Choose the compression of one image."""
    packed = formats.FORMATS[image_format].packed
    return process.Compression(_codec(conf, instance) if packed else None,
                               conf.snapdriver.compression_threads)


def _codec(conf: Any, instance: Any) -> str | None:
    wanted = codec(conf)
    missing = wanted and stream_codec.missing(wanted)
    if missing:
        LOG.warning('The image is not compressed: %(codec)s needs '
                    '%(missing)s', {'codec': wanted, 'missing': missing},
                    instance=instance)
        return None
    return wanted

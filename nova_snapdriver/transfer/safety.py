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

"""See before an upload what Glance refuses after it.

Glance inspects a raw image as well, and judges when it has stored all of it:
a guest may have written the header of another format to its disk.
"""

from oslo_log import log as logging
from oslo_utils.imageutils import format_inspector

from nova_snapdriver import exception

LOG = logging.getLogger(__name__)

SECTOR_BYTES = 512

# Their headers are in the first sector, and Glance's judgement is known from
# that alone.
_FORMATS = (format_inspector.QcowInspector, format_inspector.QEDInspector)


def check_raw(sector: bytes) -> None:
    """Look at the first sector of a raw image.

    :raises ImageRefused: Glance would refuse the image
    """
    for inspector in _FORMATS:
        failed = _failed(inspector(), sector)
        if failed:
            raise exception.ImageRefused(
                reason='Glance answers 415 to a raw image that begins like '
                       'an unsafe %s image (%s), and this disk does' %
                       (inspector.NAME, ', '.join(failed)))
    # Whether that is fatal, no API tells: it is an option of Glance's, which
    # lets this pass by default up to release 32, and not from 33 on.
    if _failed(format_inspector.GPTInspector(), sector):
        LOG.warning('Glance may refuse this image for its partition table (a '
                    'hybrid MBR, or an empty one): from release 33 on it '
                    'does, unless "mbr" is in [image_format] '
                    'gpt_safety_checks_nonfatal in glance-api.conf')


def _failed(inspector: format_inspector.FileInspector,
            sector: bytes) -> list[str]:
    """The safety checks of a format that what has its header fails."""
    inspector.eat_chunk(sector)
    if not (inspector.complete and inspector.format_match):
        return []
    try:
        inspector.safety_check()
    except format_inspector.SafetyCheckFailed as ex:
        return sorted(ex.failures)
    return []

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

"""What the owner of a server has to know: "openstack server event show"."""

from typing import Any

from nova.compute import utils as compute_utils
import nova.conf
from oslo_log import log as logging

from nova_snapdriver import exception
from nova_snapdriver import journal

LOG = logging.getLogger(__name__)
CONF = nova.conf.CONF

# The owner sees the name, and by default only an administrator the details.
FROZEN = 'snapdriver_guest_may_be_frozen'


def tell_frozen(context: Any, instance: Any, notes: journal.Notes) -> None:
    """Tell the owner that the guest may be frozen, if it may. Never raises.

    To be called when the disk is captured, and the guest should be thawed.
    """
    try:
        if notes.marked(journal.Mark.FROZEN) is None:
            return
        with compute_utils.EventReporter(context, FROZEN, CONF.host,
                                         instance.uuid):
            raise exception.ThawFailed(
                domain=instance.name,
                reason='it was asked to freeze for a snapshot')
    except exception.ThawFailed:
        pass                            # it is recorded now
    except Exception as ex:
        LOG.warning('The owner of the server cannot be told that the guest '
                    'may be frozen: %s', ex, instance=instance)

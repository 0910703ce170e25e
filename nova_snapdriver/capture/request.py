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

"""The request for a capture, which is the same for every path."""

from collections.abc import Callable
import dataclasses

from nova_snapdriver.capture import quiesce
from nova_snapdriver.capture import rbd
from nova_snapdriver.capture import readahead
from nova_snapdriver.capture import space
from nova_snapdriver.capture import suspend
from nova_snapdriver.capture import workspace
from nova_snapdriver import guest as snap_guest
from nova_snapdriver import imagebackend
from nova_snapdriver import journal
from nova_snapdriver import metrics


@dataclasses.dataclass(frozen=True)
class Request:
    """Capture one disk of one guest, once.

    :param place: the workspace, which the capture creates and removes
    :param notes: where the capture notes what a recovery has to undo
    :param limits: of the space in the scratch directory; unlimited by default
    :param power: how to suspend and resume the guest; ``None`` if it must not
        be suspended
    :param snapshot: RBD snapshot to make of a disk in Ceph, to read that
    :param spool: where to store what is read ahead of the upload; ``None`` if
        nothing may be
    :param base_format: Glance's format of the image that the server was
        created from; ``None`` if it is not known
    :param check: raises once the snapshot is to end; called while the capture
        waits
    :param meter: where the capture notes the peak of its scratch space
    """

    guest: snap_guest.Guest
    disk: imagebackend.RootDisk
    settings: quiesce.Settings
    place: workspace.Workspace
    notes: journal.Notes
    limits: space.Limits = space.Limits(0, 0)
    power: suspend.Power | None = None
    snapshot: rbd.Snapshot | None = None
    spool: readahead.Spool | None = None
    base_format: str | None = None
    check: Callable[[], None] = lambda: None
    meter: metrics.Meter = dataclasses.field(default_factory=metrics.Meter)

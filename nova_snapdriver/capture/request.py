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

"""What every way of capturing is told."""

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


@dataclasses.dataclass(frozen=True)
class Request:
    """One disk of one guest, to be captured once.

    :param place: where the capture's private directory is to be
    :param on_leftover: called when something is left that has to be undone
    :param limits: of the room for what the guest overwrites; none by default
    :param power: to stop the guest with for a moment; none where a guest that
        runs is not to be stopped
    :param snapshot: of a disk on RBD, to be made where the disk is read
    :param spool: for what is read ahead of the upload, where a guest would
        otherwise pay too long for its snapshot; none for never
    """

    guest: snap_guest.Guest
    disk: imagebackend.RootDisk
    settings: quiesce.Settings
    place: workspace.Workspace
    on_leftover: Callable[[], None]
    limits: space.Limits = space.Limits(0, 0)
    power: suspend.Power | None = None
    snapshot: rbd.Snapshot | None = None
    spool: readahead.Spool | None = None

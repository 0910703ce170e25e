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

"""What every way of capturing ends in."""

import dataclasses
import datetime
import enum

from nova_snapdriver.capture import readahead


class Consistency(enum.StrEnum):
    """What can be said of the file systems in an image."""

    FILESYSTEM = 'filesystem'
    CRASH = 'crash'
    OFFLINE = 'offline'


@dataclasses.dataclass(frozen=True)
class Export:
    """A read-only NBD export of one disk at one point in time.

    :param socket: path of the unix socket
    :param name: name of the export
    :param ahead: to have it read at the disk's speed, where it may end before
        the upload does
    """

    socket: str
    name: str
    ahead: readahead.ReadAhead | None = None

    @property
    def ended_early(self) -> bool:
        """Whether it is gone because nobody needs it any more."""
        return self.ahead is not None and self.ahead.ended


@dataclasses.dataclass(frozen=True)
class Capture:
    """An export, and what the image's properties say of it.

    :param captured_at: the point in time, UTC
    :param freeze_seconds: from before the freeze until after the thaw, or as
        long as the capture took where nothing was frozen
    """

    export: Export
    consistency: Consistency
    captured_at: datetime.datetime
    freeze_seconds: float

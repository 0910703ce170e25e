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

"""The result of every capture: an NBD export of one point in time."""

import dataclasses
import datetime
import enum

from nova_snapdriver.capture import readahead


class Consistency(enum.StrEnum):
    """The state of the file systems in an image."""

    FILESYSTEM = 'filesystem'
    CRASH = 'crash'
    OFFLINE = 'offline'


@dataclasses.dataclass(frozen=True)
class Export:
    """A read-only NBD export of one disk at one point in time.

    :param socket: path of the UNIX socket
    :param name: name of the export
    :param ahead: set if the export may end before the upload does; the disk
        is then read ahead of the upload
    """

    socket: str
    name: str
    ahead: readahead.ReadAhead | None = None

    @property
    def ended_early(self) -> bool:
        """Whether it was ended because the whole disk has been read."""
        return self.ahead is not None and self.ahead.ended


@dataclasses.dataclass(frozen=True)
class Capture:
    """An export, and what the image's properties say about it.

    :param captured_at: the point in time, UTC
    :param freeze_seconds: from before the freeze until after the thaw; if
        nothing was frozen, the time that the capture took
    """

    export: Export
    consistency: Consistency
    captured_at: datetime.datetime
    freeze_seconds: float

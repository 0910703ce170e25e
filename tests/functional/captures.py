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

"""What a way of capturing a disk is asked for."""

import dataclasses

from nova_snapdriver.capture import quiesce
from nova_snapdriver.capture import request
from nova_snapdriver.capture import workspace
from nova_snapdriver import imagebackend


def request_of(guest, directory, **changes):
    """Ask for a guest's root disk.

    :param guest: as the driver sees it: `domains.Guest.wrapped`
    :param directory: what is made for the capture is made in it
    :param changes: fields of the request that are to be others
    """
    plain = request.Request(
        guest, imagebackend.root_disk(guest.live_xml()),
        quiesce.Settings(agent_timeout=5, has_agent=False,
                         require_quiesce=False),
        workspace.locate(str(directory)), Notes())
    return dataclasses.replace(plain, **changes)


class Notes:
    """What a capture notes; nothing may be left for a recovery.

    `history` holds each mark as it was set, and None as it went.
    """

    def __init__(self, may_be_kept=False):
        self._may_be_kept = may_be_kept
        self._marks = {}
        self.history = []
        self.kept = False

    def keep(self):
        assert self._may_be_kept, 'something was left behind'
        self.kept = True

    def mark(self, mark, text=''):
        self._marks[mark] = text
        self.history.append(mark)

    def unmark(self, mark):
        self._marks.pop(mark, None)
        self.history.append(None)

    def marked(self, mark):
        return self._marks.get(mark)

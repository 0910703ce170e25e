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

"""Guests that are suspended and started again."""

import libvirt

from nova_snapdriver.capture import suspend
from nova_snapdriver import journal
from tests.functional import captures

# What is noted of the guest by then.
SUSPENDED = [journal.Mark.DETACHED, journal.Mark.SUSPENDED]
RESUMED = [*SUSPENDED, None, None]


class Power:
    """What the driver does of Nova's, done by libvirt alone."""

    def __init__(self, guest):
        self.guest = guest
        self.notes = captures.Notes()
        self.attached = 0

    def power(self):
        return suspend.Power(self.suspend, self.launch, self.attach)

    def suspend(self):
        self.guest.domain.managedSave(0)

    def launch(self):
        self.guest.domain.create()

    def attach(self):
        self.attached += 1

    def request(self, directory, **changes):
        """Ask for the disk of the guest, which is to be suspended for it."""
        return captures.request_of(
            self.guest.wrapped(), directory, power=self.power(),
            notes=self.notes, **changes)


def assert_runs(guest, directory, state=libvirt.VIR_DOMAIN_RUNNING):
    """It is what it was before, and nothing is left of its suspension."""
    guest.assert_untouched(state)
    assert not guest.domain.hasManagedSaveImage()
    assert sorted(directory.glob('snapdriver-*')) == []

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

"""What many servers of one host do to each other."""

import time

from lab.faults import harness
from lab.faults import mishaps
from lab.faults import ownership
from lab.openstack import process

# libvirtd takes five requests of a client at once, by default.
HANGING = 6
# Longer than the agents hang: each is waited for.
AGENT_OPTIONS = (('snapdriver', 'agent_timeout',
                  str(2 * mishaps.HANG_SECONDS)),)
# To pause a server and to let it go on, on a busy machine.
MANAGED_SECONDS = 12.0


def listed() -> list[ownership.Story]:
    """Return all rows."""
    return [ownership.Story('six agents hang at once', agents_hang,
                            AGENT_OPTIONS)]


def agents_hang(found: harness.Harness) -> list[str]:
    """Take snapshots of guests whose agents hang, and manage another one."""
    found.boot(HANGING + 1)
    *hanging, last = found.servers
    for one in found.servers:
        one.server.domain.wait_agent()
    for one in hanging:
        mishaps.hook(one.server.domain, mishaps.HANGS)
    images = [found.snapshot(one) for one in hanging]
    # They are in the freeze by then, and stay there for as long again.
    time.sleep(mishaps.HANG_SECONDS / 2)
    began = time.monotonic()
    found.api.change(last.server.id, 'pause', 'PAUSED')
    found.api.change(last.server.id, 'unpause', 'ACTIVE')
    seconds = time.monotonic() - began
    problems = [] if seconds < MANAGED_SECONDS else [
        f'a seventh server took {seconds:.0f} s to pause and go on']
    for one, image in zip(hanging, images):
        problems += found.next_fails(one, image)
        process.wait_for('the agent', lambda: mishaps.takes_no_hook(
            one.server.domain), harness.POINT_TIMEOUT)
        problems += found.guest_problems(one, booted=True)
    for one in found.servers[2:]:
        found.remove(one)
    return problems

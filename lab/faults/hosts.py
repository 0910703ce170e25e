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

"""What happens to a server between two compute hosts."""

import collections.abc
import contextlib

from lab.faults import harness
from lab.faults import ownership
from lab.observe import disks
from lab.observe import measure
from lab.openstack import process
from lab.openstack import secondhost
from lab.openstack import settings

FIRST, SECOND = settings.COMPUTE_HOST, secondhost.HOST
NAME = f'{harness.NAME}-moved'
MOVE_TIMEOUT = 180.0


def listed() -> list[ownership.Story]:
    """Return all rows; the guests of the first host are checked, too."""
    story = ownership.Story
    return [
        story('evacuated from a host that died in a cold snapshot',
              evacuated, disks.SUSPEND),
        story('migrated cold, with a snapshot before and after', migrated)]


@contextlib.contextmanager
def _second(found: harness.Harness) -> collections.abc.Iterator[str]:
    """Have a second host, and an id of a server whose guest runs on it."""
    found.second_up()
    try:
        server = found.api.new_server(
            NAME, found.base(), harness.FLAVOR, host=SECOND)
        found.api.wait_server(server)
        measure.Console(measure.server(found.api, server).console).wait(
            measure.BEAT, measure.BOOT_TIMEOUT)
        yield server
    finally:
        found.api.clean(NAME, NAME)
        found.lab.second.remove()


def _host(found: harness.Harness, server: str) -> str:
    return str(found.api.server(server)['OS-EXT-SRV-ATTR:host'])


def _wait_host(found: harness.Harness, server: str, host: str) -> None:
    process.wait_for(
        f'server {server} on {host}', lambda: _host(found, server) == host
        and found.api.task_state(server) is None, MOVE_TIMEOUT)


def _snapshot_fails(found: harness.Harness, server: str) -> list[str]:
    """Take a snapshot and delete the image; return why it is not active."""
    image = found.api.create_image(server, f'{harness.NAME}-row')
    try:
        found.api.wait_image(image, harness.END_TIMEOUT)
    except settings.LabError as error:
        return [str(error)]
    finally:
        found.api.delete_image(image)
    process.wait_for('the end of a snapshot', lambda: found.api.task_state(
        server) is None, harness.END_TIMEOUT)
    return []


def evacuated(found: harness.Harness) -> list[str]:
    """Evacuate, start the guest, and let the host that died come back."""
    second = found.lab.second
    with _second(found) as server:
        found.arm(('copy.made',), 'hold')
        found.api.create_image(server, f'{harness.NAME}-row')
        process.wait_for('the copy', lambda: found.taken('copy.made'),
                         harness.POINT_TIMEOUT)
        second.die()
        found.disarm()
        found.api.action(server, 'evacuate', host=FIRST)
        _wait_host(found, server, FIRST)
        # Nova leaves an evacuated server stopped, since 2.95.
        if found.api.server(server)['status'] == 'SHUTOFF':
            found.api.change(server, 'os-start', 'ACTIVE')
        here = harness.Watched(measure.server(found.api, server))
        found.second_up()
        problems = [f'the second host runs {one}'
                    for one in second.domains()]
        process.becomes(lambda: not second.left(), harness.CLEAN_TIMEOUT)
        problems += second.left() + found.left()
        problems += found.guest_problems(here)
        return problems + _snapshot_fails(found, server)


def migrated(found: harness.Harness) -> list[str]:
    """Migrate a server to the first host, and take snapshots on both."""
    with _second(found) as server:
        problems = _snapshot_fails(found, server)
        found.api.action(server, 'migrate', host=FIRST)
        found.api.wait_server(server, 'VERIFY_RESIZE', MOVE_TIMEOUT)
        here = harness.Watched(measure.server(found.api, server))
        # Until then Nova refuses a snapshot.
        found.api.action(server, 'confirmResize')
        found.api.wait_server(server)
        problems += _snapshot_fails(found, server)
        problems += found.guest_problems(here)
        return problems + found.lab.second.left() + found.left()

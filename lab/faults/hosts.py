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
import functools

from lab.faults import harness
from lab.faults import ownership
from lab.observe import disks
from lab.observe import measure
from lab.openstack import cloud
from lab.openstack import process
from lab.openstack import proxy
from lab.openstack import secondhost
from lab.openstack import settings
from lab.openstack import stack

FIRST, SECOND = settings.COMPUTE_HOST, secondhost.HOST
NAME = f'{harness.NAME}-moved'
MOVE_TIMEOUT = 180.0


def listed() -> list[ownership.Story]:
    """Return all rows; the guests of the first host are checked, too."""
    story = ownership.Story
    return [
        story('evacuated from a host that died in a cold snapshot',
              evacuated, disks.SUSPEND),
        story('migrated cold, with a snapshot before and after', migrated),
        story('resized, with a snapshot before and after', resized),
        story('shelved on one host, unshelved on another', shelved),
        story('migrated live, and not during a snapshot', migrated_live,
              secondhost.LIVE_MIGRATION)]


@contextlib.contextmanager
def _second(found: harness.Harness, host: str = SECOND, shared: bool = True
            ) -> collections.abc.Iterator[str]:
    """Have a second host, and an id of a server whose guest runs on a host."""
    found.second_up(shared)
    try:
        server = found.api.new_server(
            NAME, found.base(), harness.FLAVOR, host=host)
        found.api.wait_server(server)
        measure.server(found.api, server).wait_beat()
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
    return _moved(found, 'migrate', host=FIRST)


def resized(found: harness.Harness) -> list[str]:
    """Resize a server, which moves it, and take snapshots on both hosts."""
    flavor = found.api.flavor(f'{harness.FLAVOR}-more',
                              stack.FLAVOR_RAM_MIB + 64,
                              stack.SMALL_FLAVOR_DISK_GIB)
    return _moved(found, 'resize', flavorRef=flavor)


def _moved(found: harness.Harness, action: str, **arguments: str
           ) -> list[str]:
    with _second(found) as server:
        problems = _snapshot_fails(found, server)
        found.api.action(server, action, **arguments)
        found.api.wait_server(server, 'VERIFY_RESIZE', MOVE_TIMEOUT)
        here = harness.Watched(measure.server(found.api, server))
        # Until then Nova refuses a snapshot.
        found.api.action(server, 'confirmResize')
        found.api.wait_server(server)
        problems += _snapshot_fails(found, server)
        problems += found.guest_problems(here)
        return problems + found.lab.second.left() + found.left()


def shelved(found: harness.Harness) -> list[str]:
    """Shelve a server on the second host, and unshelve it on the first."""
    with _second(found) as server:
        found.api.action(server, 'shelve')
        found.api.wait_server(server, 'SHELVED_OFFLOADED', MOVE_TIMEOUT)
        problems = found.lab.second.left()
        found.api.action(server, 'unshelve', host=FIRST)
        _wait_host(found, server, FIRST)
        here = harness.Watched(measure.server(found.api, server))
        problems += _snapshot_fails(found, server)
        return problems + found.guest_problems(here, booted=True)


def migrated_live(found: harness.Harness) -> list[str]:
    """Migrate a server to the second host, refused while it is captured.

    With its disk: libvirt takes a directory that both hosts have for shared
    only where it is on a network.
    """
    with _second(found, FIRST, shared=False) as server:
        migrate = functools.partial(
            found.api.action, server, 'os-migrateLive', host=SECOND,
            block_migration='auto')
        problems = _refused(found, server, migrate)
        migrate()
        _wait_host(found, server, SECOND)
        measure.Console(found.lab.second.console(server), True).wait(
            measure.BEAT, measure.BOOT_TIMEOUT)
        problems += _snapshot_fails(found, server)
        return problems + found.left() + found.lab.second.entries()


def _refused(found: harness.Harness, server: str,
             act: collections.abc.Callable[[], object]) -> list[str]:
    """Do something in the middle of an upload, which is to be refused."""
    found.proxy.arm(proxy.Fault('hold', at=harness.UPLOAD_BYTES // 2))
    image = found.api.create_image(server, f'{harness.NAME}-row')
    problems = []
    try:
        process.wait_for('the upload', found.proxy.held.is_set,
                         harness.POINT_TIMEOUT)
        act()
        problems.append('it was not refused during a snapshot')
    except cloud.ApiError as error:
        if error.status != 409:
            problems.append(str(error))
    finally:
        found.proxy.clear()
    found.api.wait_image(image, harness.END_TIMEOUT)
    found.api.delete_image(image)
    found.api.wait_server(server)
    return problems

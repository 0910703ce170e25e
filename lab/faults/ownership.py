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


"""What only Nova's database knows, and the driver must not guess.

nova-compute dies in a snapshot, comes back, and finds that a tenant, another
service or another host has gone on meanwhile.
"""

import collections.abc
import dataclasses
import json
import os
import signal
import time
import uuid

from lab.faults import harness
from lab.observe import disks
from lab.observe import remains
from lab.openstack import config
from lab.openstack import process
from lab.openstack import proxy
from lab.openstack import services
from lab.openstack import settings

# Between two attempts of the driver to undo something, at the beginning.
RETRY_SECONDS = 12.0
# What Nova is given to end its tasks, and some; a kill would be later.
STOP_TIMEOUT = 100.0
LIMIT = (('compute', 'max_concurrent_disk_ops', '1'),)
SHORT_STOP = (('DEFAULT', 'manager_shutdown_timeout', '45'),
              ('DEFAULT', 'graceful_shutdown_timeout', '60'))


@dataclasses.dataclass(frozen=True)
class Story:
    """A row to be: what happens, and with which options."""

    name: str
    happen: collections.abc.Callable[[harness.Harness], list[str]]
    options: config.Options = ()
    quick: bool = False


def listed() -> list[Story]:
    """Return all rows."""
    return [
        Story('suspended by its owner after a recovery', suspended_again,
              disks.SUSPEND, quick=True),
        Story('a backup waits when nova-compute is killed', backup_waits,
              LIMIT, quick=True),
        Story('nova-compute is killed in a shelve', shelve_killed),
        Story('the image is hidden from [service_user]', image_hidden),
        Story('a journal of another host', other_host),
        Story('nova-compute is told to stop in a slow upload', told_to_stop,
              SHORT_STOP)]


class Stories:
    """Lets them happen, and checks what comes of them."""

    def __init__(self, found: harness.Harness) -> None:
        self.harness = found

    def run(self, wanted: list[Story]) -> None:
        for story in wanted:
            self.harness.use('file', *story.options)
            self.trial(story)

    def trial(self, story: Story, number: int | None = None) -> None:
        """Let one happen.

        :param number: tells rows of the same name apart
        """
        found = self.harness
        row = found.row(
            story.name if number is None else f'{number} {story.name}')
        began = time.monotonic()
        try:
            found.boot(2)
            for one in found.servers:
                one.begin()
            row.problems += story.happen(found)
            row.problems += found.left()
            for one in found.servers[:2]:
                row.problems += found.guest_problems(one, booted=True)
                one.begin()
            row.problems += found.next_fails(
                found.servers[0], found.snapshot(found.servers[0]))
        except (settings.LabError, OSError) as error:
            row.problems.append(str(error))
        row.seconds = round(time.monotonic() - began, 1)
        found.table.add(row)
        if row.problems:
            found.repair()


def _kill_at(found: harness.Harness, point: str,
             act: collections.abc.Callable[[], object]) -> None:
    """Kill nova-compute at a point of what is begun; it stays down."""
    found.arm((point,), 'hold')
    act()
    process.wait_for(point, lambda: found.taken(point), harness.POINT_TIMEOUT)
    services.NovaCompute(found.conf, config.Compute()).kill()
    found.disarm()


def suspended_again(found: harness.Harness) -> list[str]:
    """Suspend a server that a recovery started and could not finish with.

    Glance is away, so the entry stays in the journal and is tried again.
    """
    one = found.servers[0]
    glance = found.lab.wsgi['glance']
    _kill_at(found, 'copy.made', lambda: found.snapshot(one))
    glance.kill()
    try:
        found.restart()
        process.wait_for('the guest', lambda: one.server.domain.state() ==
                         'running', harness.POINT_TIMEOUT)
        found.wait_idle(one)
        found.api.change(one.server.id, 'suspend', 'SUSPENDED')
        time.sleep(RETRY_SECONDS)
    finally:
        glance.ensure()
    problems = found.left()
    state = one.server.domain.state()
    if state != 'shut off':
        problems.append(f'Nova says SUSPENDED, and the guest is {state}')
    found.api.change(one.server.id, 'resume', 'ACTIVE')
    return problems


def backup_waits(found: harness.Harness) -> list[str]:
    """Kill nova-compute while one backup waits for the other's disk."""
    first, second = found.servers[:2]

    def back_up(one: harness.Watched) -> None:
        found.api.action(one.server.id, 'createBackup', name='snapdriver-'
                         'faults-row', backup_type='daily', rotation=1)

    def both() -> None:
        back_up(first)
        process.wait_for('the first backup', lambda: found.taken(
            'upload.announced'), harness.POINT_TIMEOUT)
        back_up(second)
        process.wait_for(
            'the second backup', lambda: found.api.task_state(
                second.server.id) == 'image_pending_upload',
            harness.POINT_TIMEOUT)

    _kill_at(found, 'upload.announced', both)
    found.restart()
    for one in (first, second):
        found.wait_idle(one)
    return found.left()


def shelve_killed(found: harness.Harness) -> list[str]:
    """Kill nova-compute in a shelve: Nova does not clear its task state."""
    one = found.servers[0]
    _kill_at(found, 'upload.announced',
             lambda: found.api.action(one.server.id, 'shelve'))
    found.restart()
    found.wait_idle(one)
    problems = found.left()
    found.api.action(one.server.id, 'reboot', type='HARD')
    found.api.wait_server(one.server.id)
    process.wait_for('the guest', lambda: one.server.domain.state() ==
                     'running', harness.POINT_TIMEOUT)
    return problems


def image_hidden(found: harness.Harness) -> list[str]:
    """Recover with a [service_user] that has the role service alone."""
    one = found.servers[0]
    identity = found.api.sdk.identity
    role = identity.find_role('admin')
    given = (identity.find_project('service'), identity.find_user('nova'),
             role)
    identity.unassign_project_role_from_user(*given)
    try:
        found.restart()
        services.NovaCompute(found.conf, config.Compute()).kill()
        found.restart()
        _kill_at(found, 'upload.announced', lambda: found.snapshot(one))
        found.restart()
        found.wait_idle(one)
        time.sleep(RETRY_SECONDS)
        kept = list(remains.journal(found.conf).glob('*.json'))
        told = 'role admin' in found.conf.log('nova-compute').read_text(
            errors='replace')
    finally:
        identity.assign_project_role_to_user(*given)
        services.NovaCompute(found.conf, config.Compute()).kill()
        found.restart()
    return ([] if kept else ['the entry was dropped, and the image stayed']
            ) + ([] if told else ['the log names no role that is missing'])


def other_host(found: harness.Harness) -> list[str]:
    """Leave alone what another host has begun, and say so."""
    one = found.servers[0]
    path = remains.journal(found.conf) / f'{uuid.uuid4()}.json'
    place = found.conf.snapshots / 'snapdriver-01234567'
    place.mkdir(parents=True)
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({
        'version': 2, 'host': 'another', 'instance': one.server.id,
        'image': str(uuid.uuid4()), 'workspace': str(place),
        'socket': str(place / 'nbd'), 'visible': True,
        'begun_at': '2026-11-22T20:00:00+00:00'}))
    try:
        services.NovaCompute(found.conf, config.Compute()).kill()
        found.restart()
        told = process.complaint(
            found.conf.bin('nova-snapdriver'), 'recover', '--config-file',
            config.compute_file(found.conf))
        problems = [] if 'another' in told else ['recover does not name it']
        if not (path.exists() and place.exists()):
            problems.append('what another host has begun was undone')
    finally:
        path.unlink(missing_ok=True)
        place.rmdir()
    return problems


def told_to_stop(found: harness.Harness) -> list[str]:
    """Stop nova-compute as systemd does, while an upload would take long."""
    one = found.servers[0]
    found.proxy.arm(proxy.Fault('slow', rate=1 << 19))
    image = found.snapshot(one)
    process.wait_for('the upload', lambda: found.image_status(image) ==
                     'saving', harness.POINT_TIMEOUT)
    record = services.NovaCompute(found.conf, config.Compute()).record()
    if record is None:
        raise settings.LabError('nova-compute does not run')
    os.kill(record.pid, signal.SIGTERM)
    # Its thread goes on until Nova has noticed; the image goes before that.
    gone = process.becomes(lambda: found.image_status(image) == 'gone',
                           STOP_TIMEOUT)
    ended = process.becomes(lambda: not record.alive, STOP_TIMEOUT)
    found.proxy.clear()
    services.NovaCompute(found.conf, config.Compute()).kill()
    left = remains.on_host(found.conf)
    found.restart()
    return left + ([] if gone else ['the upload was not ended']) + (
        [] if ended else [f'it did not end within {STOP_TIMEOUT:.0f} s'])

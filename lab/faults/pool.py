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

"""Faults of Ceph, while images are written into Glance's pool."""

import os
import signal
import time

from lab.faults import cases
from lab.faults import mishaps
from lab.observe import disks
from lab.openstack import ceph
from lab.openstack import config
from lab.openstack import settings

DISK = 'file-rbd'
WRITTEN_POINT = 'rbd.written'
# A user of Ceph that may not write.
READER = 'reader'
Case = cases.Case


def listed(conf: settings.Settings) -> list[Case]:
    """Return all rows, those with the same options in sequence."""
    written = disks.written(conf)
    reading = (*written, ('snapdriver', 'rbd_user', READER))

    def case(name: str, ends: str, before: cases.Action = cases.nothing,
             during: cases.Action = cases.nothing,
             after: cases.Action = cases.nothing,
             options: config.Options = written) -> Case:
        return Case(name, ends, fault=None, before=before, during=during,
                    after=after, options=options, only_ours=True, disk=DISK)

    return [
        case('the OSD is away for 20 s', 'active', pause('osd'), wait,
             resume('osd')),
        case('the monitor is away for 20 s', 'active', pause('mon'), wait,
             resume('mon')),
        case('the monitor is away for 20 s, and all is written', 'active',
             mishaps.hold_at(WRITTEN_POINT), lose_monitor, resume('mon')),
        # Glance cannot write there, either, and waits.
        case('the pool is full for 20 s', 'either', fill, have_room, empty),
        case('Glance refuses the location', 'active', refuse_locations,
             after=take_locations),
        case('the user of Ceph may not write', 'active', make_reader,
             options=reading)]


def _signal(scene: cases.Scene, name: str, number: signal.Signals) -> None:
    record = scene.lab.ceph.daemons[name].record()
    if record is None:
        raise settings.LabError(f'Ceph has no {name}')
    os.kill(record.pid, number)


def pause(name: str) -> cases.Action:
    """Stop a daemon: one that is killed loses what it has in memory."""
    return lambda scene: _signal(scene, name, signal.SIGSTOP)


def resume(name: str) -> cases.Action:
    return lambda scene: _signal(scene, name, signal.SIGCONT)


def wait(scene: cases.Scene) -> None:
    """Let the daemon be away for a while, and have it back."""
    time.sleep(mishaps.AWAY_SECONDS)
    for name in ('osd', 'mon'):
        _signal(scene, name, signal.SIGCONT)


def lose_monitor(scene: cases.Scene) -> None:
    mishaps.wait_at(WRITTEN_POINT, scene)
    _signal(scene, 'mon', signal.SIGSTOP)
    scene.harness.disarm()
    wait(scene)


def fill(scene: cases.Scene) -> None:
    """Give the pool a quota that it exceeds."""
    _quota(scene, 1)
    cases.waiting_for('a full pool', lambda: _is_full(scene))


def have_room(scene: cases.Scene) -> None:
    time.sleep(mishaps.AWAY_SECONDS)
    empty(scene)


def empty(scene: cases.Scene) -> None:
    _quota(scene, 0)
    cases.waiting_for('room in the pool', lambda: not _is_full(scene))


def _quota(scene: cases.Scene, objects: int) -> None:
    scene.lab.ceph.command('osd', 'pool', 'set-quota', ceph.IMAGES,
                           'max_objects', str(objects))


def _is_full(scene: cases.Scene) -> bool:
    return 'POOL_FULL' in scene.lab.ceph.command('health', 'detail')


def refuse_locations(scene: cases.Scene) -> None:
    scene.lab.images(config.Images(('rbd', 'file'),
                                   ('add_image_location',)))


def take_locations(scene: cases.Scene) -> None:
    scene.lab.images(config.Images(('rbd', 'file')))


def make_reader(scene: cases.Scene) -> None:
    scene.lab.ceph.make_user(
        READER, mon='profile rbd',
        osd=f'profile rbd-read-only pool={ceph.IMAGES}')

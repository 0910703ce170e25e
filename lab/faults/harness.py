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

"""Servers that faults are tried on, and the checks after each fault."""

import dataclasses
import json
import pathlib
import random
import shutil
from typing import Self

from lab import command
from lab.observe import measure
from lab.observe import remains
from lab.observe import rounds
from lab.openstack import ceph
from lab.openstack import config
from lab.openstack import guest
from lab.openstack import process
from lab.openstack import proxy
from lab.openstack import settings
from lab.openstack import stack
from nova_snapdriver import faultpoint

NAME = 'snapdriver-faults'
FLAVOR = stack.SMALL_FLAVOR
SERVERS = 3
# Seconds from the fault until the server has no task state.
END_TIMEOUT = 150.0
# After that, until everything is cleaned up. What cannot be undone at once is
# tried again after 5, 15, 35 and 75 seconds.
CLEAN_TIMEOUT = 80.0
POINT_TIMEOUT = 60.0
# Of the small guest's disk, at least.
UPLOAD_BYTES = 40 << 20
# A copy of the small disk fits, and the driver's default reserve does not.
SCRATCH_BYTES = 160 << 20
# How Glance runs, by where disks are.
IMAGES = {'file': config.Images(), 'rbd': config.Images(('rbd', 'file')),
          # Disks in files, and images in Ceph.
          'file-rbd': config.Images(('rbd', 'file'))}
UNFINISHED = ('queued', 'saving', 'importing')
AGENT_TIMEOUT = 2


@dataclasses.dataclass
class Row(command.Row):
    """The result of one fault."""

    seed: str = ''
    driver: str = 'ours'
    #: Of the image that was made meanwhile: active, or gone.
    image: str | None = None


class Watched(rounds.Rounds):
    """A server whose guest's rounds are followed."""

    def __init__(self, server: measure.Server) -> None:
        super().__init__(server)
        #: It has booted during a backup job: libvirt does not notice what
        #: happens to the agent's port meanwhile, and may not reach the agent.
        self.without_agent = False


class Harness:
    """The lab, with a proxy before Glance and armed points in the driver."""

    def __init__(self, lab: stack.Stack, driver: str, seed: int,
                 target: pathlib.Path | None = None) -> None:
        self.lab = lab
        self.api = lab.cloud
        self.conf = lab.settings
        self.driver = driver
        self.seed = seed
        self.folder = self.conf.root / 'faults'
        self.points = self.folder / 'points'
        self.mounted = self.conf.small
        self.proxy = proxy.Proxy(self.conf)
        self.servers: list[Watched] = []
        self.table = command.Table(line, target)
        self._disk = 'file'
        self._compute = config.Compute()

    @property
    def rows(self) -> list[Row]:
        return self.table.rows

    def random(self, name: str) -> random.Random:
        """Return what decides the moments of a row."""
        return random.Random(f'{self.seed}{name}')

    # Up and down

    def __enter__(self) -> Self:
        settings.make_directory(self.points, 0o777)
        self.disarm()
        self.clean()
        self._mount()
        self.proxy.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.proxy.clear()
        self.disarm()
        try:
            self.compute()
            self.clean()
        finally:
            self.proxy.__exit__()
            self.lab.second.remove()
            self.lab.compute(config.Compute())
            self.lab.images(config.Images())
            self.lab.ceph.stop()
            self._unmount()

    def clean(self) -> None:
        """Remove servers, images, and files that a driver has left."""
        self.api.clean(NAME, f'{NAME}-row')
        self.servers.clear()
        for path in self.conf.snapshots.glob('*'):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()

    def _mount(self) -> None:
        """Mount a small file system, before any guest: QEMU has to see it."""
        self._unmount()
        settings.make_directory(self.mounted)
        image = self.folder / 'small.img'
        with open(image, 'wb') as file:
            file.truncate(SCRATCH_BYTES)
        process.output('mkfs.ext4', '-q', '-m', '0', image)
        process.output('mount', '-o', 'loop', image, self.mounted)
        settings.make_directory(self.mounted)

    def _unmount(self) -> None:
        if self.mounted.is_mount():
            process.output('umount', self.mounted)

    def use(self, disk: str, *options: tuple[str, str, str]) -> None:
        """Have a nova-compute with options, and disks in a place."""
        if disk != self._disk:
            self.clean()
            if self._disk == 'file':
                # It stays there: Ceph is removed in the end.
                self.base()
            self.lab.images(IMAGES[disk])
            self._disk = disk
        self.compute(*options)

    def compute(self, *options: tuple[str, str, str]) -> None:
        """Have nova-compute up, with Glance behind the proxy."""
        self._compute = config.Compute(
            self.driver, rbd=self._disk == 'rbd', environment=(
                (faultpoint.VARIABLE, str(self.points)),),
            options=(('glance', 'api_servers', self.proxy.url),
                     ('glance', 'num_retries', '1'),
                     ('snapdriver', 'agent_timeout', str(AGENT_TIMEOUT)),
                     ('snapdriver', 'upload_stall_timeout', '20'), *options))
        self.restart()

    def restart(self) -> None:
        """Start nova-compute where it does not run."""
        self.lab.compute(self._compute)

    def second_up(self, shared: bool = True) -> None:
        """Have a second compute host up, with the same options."""
        self.lab.second_up(self._compute, shared)

    def boot(self, count: int = SERVERS) -> None:
        """Have so many servers whose guests write."""
        missing = range(len(self.servers), count)
        base = self.base() if missing else ''
        made = [self.api.new_server(f'{NAME}-{self._disk}-{number}', base,
                                    FLAVOR)
                for number in missing]
        for one in made:
            self.api.wait_server(one)
            self.servers.append(Watched(measure.server(self.api, one)))

    def remove(self, one: Watched) -> None:
        self.api.delete_server(one.server.id)
        self.servers.remove(one)

    def base(self) -> str:
        """Return the id of an image for small servers."""
        hooked = f'{guest.COMMAND_LINE} lab.hook'
        if self._disk != 'rbd':
            return self.lab.small_image(
                f'{NAME}-{self.lab.guest.version()}', os_command_line=hooked)
        return self.lab.small_image(
            f'{NAME}-row-base', 'raw', os_command_line=hooked,
            os_shutdown_timeout='1')

    # Rows

    def row(self, name: str) -> Row:
        return Row(name, seed=str(self.seed), driver=self.driver)

    def repair(self) -> None:
        """Clean up after a row with problems, for the next one."""
        self.proxy.clear()
        self.disarm()
        lab = self.lab
        for daemon in (lab.mariadb, lab.rabbitmq, lab.memcached,
                       lab.libvirtd, *lab.wsgi.values()):
            daemon.ensure()
        self.restart()
        self.clean()

    # Points

    def arm(self, points: tuple[str, ...], action: str) -> None:
        """Arm points with an action, once each."""
        self.disarm()
        (self.points / faultpoint.ARMED).write_text(
            json.dumps(dict.fromkeys(points, action)))

    def disarm(self) -> None:
        """Disarm all points, and release what is held."""
        for path in self.points.iterdir():
            path.unlink()

    def taken(self, point: str) -> bool:
        """Return whether a snapshot has got to an armed point."""
        return (self.points / (point + faultpoint.TAKEN)).exists()

    # Snapshots

    def snapshot(self, one: Watched) -> str:
        """Request a snapshot; return the image's id."""
        return self.api.create_image(one.server.id, f'{NAME}-row')

    def wait_idle(self, one: Watched) -> None:
        """Wait for the end of its snapshot, successful or not."""
        process.wait_for(
            f'the end of the snapshot of {one.server.name}',
            lambda: self.api.task_state(one.server.id) is None, END_TIMEOUT,
            self.conf.log('nova-compute'))

    def image_status(self, image_id: str) -> str:
        """Return the status of an image; `gone` without one."""
        for image in self.api.images():
            if image['id'] == image_id:
                return str(image['status'])
        return 'gone'

    # Checks

    def next_fails(self, one: Watched, image_id: str) -> list[str]:
        """Wait for a further snapshot; report and delete its image."""
        self.wait_idle(one)
        status = self.image_status(image_id)
        self.api.delete_image(image_id)
        return [] if status == 'active' else [
            f'the next snapshot of {one.server.name} is {status}']

    def image_problems(self, one: Watched, image_id: str) -> list[str]:
        """Check that an active image holds a round of its guest."""
        path = self.folder / 'image'
        self.api.download(image_id, path)
        try:
            image = self.api.image(image_id)
            wrong = one.image_problem(
                path, image['disk_format'], self.folder / 'inspect',
                image.get('snapdriver_consistency') != 'filesystem')
        finally:
            path.unlink()
        return [f'the image: {wrong}'] if wrong else []

    def left(self) -> list[str]:
        """Return what is left behind once there was time to clean up."""
        process.becomes(lambda: not self._left(), CLEAN_TIMEOUT)
        return self._left()

    def _left(self) -> list[str]:
        return remains.on_host(self.conf, self.mounted / 'scratch') + [
            f'left behind: image {image["status"]}'
            for image in self.api.images() if image['status'] in UNFINISHED
        ] + self._left_in_pool()

    def _left_in_pool(self) -> list[str]:
        """Return what is in Glance's pool and no image of Glance's."""
        if 'rbd' not in IMAGES[self._disk].stores:
            return []
        known = {image['id'] for image in self.api.images()}
        return [f'left behind: {ceph.IMAGES}/{name}' for name in
                self.lab.ceph.listed('ls', ceph.IMAGES) if name not in known]

    def guest_problems(self, one: Watched, state: str = 'running',
                       booted: bool = False) -> list[str]:
        """Check a guest after a fault: its domain, rounds and freeze.

        :param booted: whether it may have booted since
        """
        name = one.server.name
        try:
            found = [f'{name} {words}' for words in
                     remains.of_domain(one.server.domain, state)]
            if self.api.task_state(one.server.id) is not None:
                found.append(f'{name} has a task state')
            if state != 'running' or found:
                return found
            found = one.problems(booted)
            return found if one.without_agent else found + self._frozen(one)
        except settings.LabError as error:
            return [str(error)]

    @staticmethod
    def _frozen(one: Watched) -> list[str]:
        """Wait for the thaw; after a boot the agent comes late."""
        def thawed() -> bool:
            return one.server.domain.freeze_status() == 'thawed'

        if process.becomes(thawed, CLEAN_TIMEOUT):
            return []
        return [f'{one.server.name} is {one.server.domain.freeze_status()}']


HEADINGS = f'{"fault":52}{"ok":4}{"time, s":>9}  image'


def line(row: Row) -> str:
    """Format a row."""
    ok = 'yes' if row.ok else 'NO'
    return (f'{row.name:52}{ok:4}{row.seconds or 0:9.1f}'
            f'  {row.image or "-"}').rstrip()

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


"""Servers that faults are tried on, and all that has to hold afterwards."""

import dataclasses
import json
import random
import shutil
import time

from lab.observe import inspect
from lab.observe import measure
from lab.observe import processes
from lab.openstack import cloud
from lab.openstack import config
from lab.openstack import guest
from lab.openstack import process
from lab.openstack import proxy
from lab.openstack import settings
from lab.openstack import stack
from nova_snapdriver import faultpoint

NAME = 'snapdriver-faults'
SERVERS = 3
BOOT_TIMEOUT = 120.0
# From the fault until the server has no task.
END_TIMEOUT = 150.0
# After that: until what was left behind is gone. What could not be undone at
# once is tried again after 5, 15, 35 and 75 seconds.
CLEAN_TIMEOUT = 80.0
POINT_TIMEOUT = 60.0
# What an upload of the small guest's disk has at least.
UPLOAD_BYTES = 40 << 20
# Room for a copy of the small disk, and far from what is to stay free.
SCRATCH_BYTES = 160 << 20
# How Glance runs, by the kind of disks.
IMAGES = {'file': config.Images(), 'rbd': config.Images(('rbd', 'file'))}
UNFINISHED = ('queued', 'saving', 'importing')
AGENT_TIMEOUT = 2


@dataclasses.dataclass
class Row:
    """What became of one fault."""

    name: str
    seed: str
    driver: str = 'ours'
    ok: bool = False
    #: Of the image that was made meanwhile: active, or gone.
    image: str | None = None
    seconds: float = 0.0
    problems: list[str] = dataclasses.field(default_factory=list)


class Watched:
    """A server whose guest writes, and what it wrote so far."""

    def __init__(self, server: measure.Server) -> None:
        self.server = server
        self._console = measure.Console(server.console, from_end=True)
        #: It booted during a backup job: of what its agent's port does then,
        #: libvirt takes no notice, and the agent may be lost to it.
        self.without_agent = False
        self.begin()

    def begin(self) -> None:
        """From now on no number may be missing."""
        self._console.lines()
        beat = self._console.wait(measure.BEAT, BOOT_TIMEOUT)
        self._numbers = [int(beat[1])]

    @property
    def first(self) -> int:
        return self._numbers[0]

    @property
    def last(self) -> int:
        return self._numbers[-1]

    def problems(self, again: bool = False) -> list[str]:
        """What is wrong with its writes: it writes now, and left none out.

        :param again: it may have booted meanwhile
        """
        end = time.monotonic() + (BOOT_TIMEOUT if again
                                  else measure.BEAT_TIMEOUT)
        fresh = time.monotonic() + 0.5
        while not self._read() or time.monotonic() < fresh:
            if time.monotonic() > end:
                return [f'{self.server.name} does not write']
            time.sleep(measure.SAMPLE_SECONDS)
        expected = list(range(self.first, self.first + len(self._numbers)))
        if not again and self._numbers != expected:
            return [f'the rounds of {self.server.name} have a gap']
        return []

    def _read(self) -> bool:
        new = [int(match[1]) for line in self._console.lines()
               if (match := measure.BEAT.match(line))]
        self._numbers += new
        return bool(new)


class Harness:
    """The lab with a proxy before Glance and armed points in the driver."""

    def __init__(self, lab: stack.Stack, driver: str, seed: int) -> None:
        self.lab = lab
        self.api = lab.cloud
        self.conf = lab.settings
        self.driver = driver
        self.seed = seed
        self.folder = self.conf.root / 'faults'
        self.points = self.folder / 'points'
        self.mounted = self.folder / 'small'
        self.proxy = proxy.Proxy(self.conf)
        self.servers: list[Watched] = []
        self.rows: list[Row] = []
        self._disk = 'file'
        self._compute = config.Compute()

    def random(self, name: str) -> random.Random:
        """The moments of one row."""
        return random.Random(f'{self.seed}{name}')

    # Up and down

    def __enter__(self) -> 'Harness':
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
            self.lab.compute(config.Compute())
            self.lab.images(config.Images())
            self.lab.ceph.stop()
            self._unmount()

    def clean(self) -> None:
        """Remove servers, images, and what a driver has left."""
        for one in cloud.named(self.api.servers(), NAME):
            self.api.delete_server(one['id'])
        for image in cloud.named(self.api.images(), f'{NAME}-row'):
            self.api.delete_image(image['id'])
        self.servers.clear()
        for path in self.conf.snapshots.glob('*'):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()

    def _mount(self) -> None:
        """A small file system, before any guest: QEMU has to see it."""
        self._unmount()
        settings.make_directory(self.mounted)
        image = self.folder / 'small.img'
        with open(image, 'wb') as file:
            file.truncate(SCRATCH_BYTES)
        process.output('mkfs.ext4', '-q', '-m', '0', str(image))
        process.output('mount', '-o', 'loop', str(image), str(self.mounted))
        settings.make_directory(self.mounted)

    def _unmount(self) -> None:
        if self.mounted.is_mount():
            process.output('umount', str(self.mounted))

    def use(self, disk: str, *options: tuple[str, str, str]) -> None:
        """Have a nova-compute with options, for disks of a kind."""
        if disk != self._disk:
            self.clean()
            self.lab.images(IMAGES[disk])
            self._disk = disk
        self.compute(*options)

    def compute(self, *options: tuple[str, str, str]) -> None:
        """Have nova-compute up, with Glance behind the proxy."""
        url = f'http://{settings.ADDRESS}:{self.conf.ports.proxy}'
        self._compute = config.Compute(
            self.driver, rbd=self._disk == 'rbd', environment=(
                (faultpoint.VARIABLE, str(self.points)),),
            options=(('glance', 'api_servers', url),
                     ('glance', 'num_retries', '1'),
                     ('snapdriver', 'agent_timeout', str(AGENT_TIMEOUT)),
                     ('snapdriver', 'upload_stall_timeout', '20'), *options))
        self.lab.compute(self._compute)

    def restart(self) -> None:
        """Start nova-compute after it was killed."""
        self.lab.compute(self._compute)

    def boot(self, count: int = SERVERS) -> None:
        """Have so many servers that write."""
        disk = self._disk
        missing = range(len(self.servers), count)
        base = self._base(disk) if missing else ''
        made = [self.api.new_server(f'{NAME}-{disk}-{number}', base,
                                    stack.SMALL_FLAVOR)
                for number in missing]
        for one in made:
            self.api.wait_server(one)
            self.servers.append(
                Watched(measure.server(self.api, one)))

    def remove(self, one: Watched) -> None:
        self.api.delete_server(one.server.id)
        self.servers.remove(one)

    def _base(self, disk: str) -> str:
        line = f'{guest.COMMAND_LINE} lab.hook'
        if disk == 'file':
            return self.lab.small_image(
                f'{NAME}-{self.lab.guest.version()}', os_command_line=line)
        return self.lab.small_image(
            f'{NAME}-row-base', 'raw', os_command_line=line,
            os_shutdown_timeout='1')

    # Rows

    def row(self, name: str) -> Row:
        return Row(name, str(self.seed), self.driver)

    def finish(self, row: Row) -> None:
        row.ok = not row.problems
        self.rows.append(row)
        print(line(row), flush=True)
        for problem in row.problems:
            print(f'    {problem}', flush=True)

    def repair(self) -> None:
        """What one row has left must not fail the next."""
        self.proxy.clear()
        self.disarm()
        lab = self.lab
        for daemon in (lab.mariadb, lab.rabbitmq, lab.memcached,
                       lab.libvirtd, *lab.wsgi.values()):
            daemon.ensure()
        self.restart()
        self.clean()

    # The points

    def arm(self, points: tuple[str, ...], action: str) -> None:
        """Have this happen at each of these points, once."""
        self.disarm()
        (self.points / faultpoint.ARMED).write_text(
            json.dumps(dict.fromkeys(points, action)))

    def disarm(self) -> None:
        """Have nothing happen any more, and what is held go on."""
        for path in self.points.iterdir():
            path.unlink()

    def taken(self, point: str) -> bool:
        return (self.points / (point + faultpoint.TAKEN)).exists()

    # Snapshots

    def snapshot(self, one: Watched) -> str:
        """Ask for one; returns the image's id."""
        reply = self.api.action(one.server.id, 'createImage',
                                name=f'{NAME}-row')
        return str(reply['image_id'])

    def wait_idle(self, one: Watched) -> None:
        """Wait until its snapshot is over, well or not."""
        process.wait_for(
            f'the end of the snapshot of {one.server.name}',
            lambda: self.task_state(one) is None, END_TIMEOUT,
            self.conf.log('nova-compute'))

    def task_state(self, one: Watched) -> str | None:
        found = self.api.server(one.server.id)['OS-EXT-STS:task_state']
        return None if found is None else str(found)

    def image_status(self, image_id: str) -> str:
        """The status of an image; `gone` if it is."""
        for image in self.api.images():
            if image['id'] == image_id:
                return str(image['status'])
        return 'gone'

    def active(self, one: Watched, image_id: str) -> list[str]:
        """See that a snapshot works; its image is gone afterwards."""
        self.wait_idle(one)
        status = self.image_status(image_id)
        self.api.delete_image(image_id)
        return [] if status == 'active' else [
            f'the next snapshot of {one.server.name} is {status}']

    def held_rounds(self, one: Watched, image_id: str) -> list[str]:
        """What is wrong with an image that is active."""
        path = self.folder / 'image'
        self.api.download(image_id, path)
        try:
            image = self.api.image(image_id)
            held, wrong = inspect.image(
                path, image['disk_format'], self.folder / 'inspect',
                image.get('snapdriver_consistency') != 'filesystem')
        finally:
            path.unlink()
        if not wrong and not one.first <= held <= one.last:
            wrong = f'it holds round {held}, not {one.first} to {one.last}'
        return [f'the image: {wrong}'] if wrong else []

    # What has to hold

    def left(self) -> list[str]:
        """What is left behind, once it had a moment to go."""
        end = time.monotonic() + CLEAN_TIMEOUT
        while (found := self._left()) and time.monotonic() < end:
            time.sleep(process.POLL_SECONDS)
        return found

    def _left(self) -> list[str]:
        scratch = self.mounted / 'scratch'
        journal = self.conf.nova / 'snapdriver'
        found = [f'file {path}' for folder in (self.conf.snapshots, scratch,
                                               journal)
                 if folder.exists() for path in folder.iterdir()]
        found += [f'process {one}' for one in processes.strays()]
        found += [f'image {image["status"]}' for image in self.api.images()
                  if image['status'] in UNFINISHED]
        return [f'left behind: {one}' for one in found]

    def guest_problems(self, one: Watched, state: str = 'running',
                       again: bool = False) -> list[str]:
        """What is wrong with a guest that has come through.

        :param again: it may have booted meanwhile
        """
        try:
            found = [f'{one.server.name} {words}'
                     for words in self._domain_problems(one, state)]
            if self.task_state(one) is not None:
                found.append(f'{one.server.name} has a task state')
            if state != 'running' or found:
                return found
            if one.without_agent:
                return one.problems(again)
            return one.problems(again) + self._frozen(one)
        except settings.LabError as error:
            return [str(error)]

    @staticmethod
    def _domain_problems(one: Watched, state: str) -> list[str]:
        domain = one.server.domain
        found = [] if domain.persistent() else ['is transient']
        if domain.state() != state:
            return [*found, f'is {domain.state()}']
        # One that does not run has none, and libvirt does not like to be
        # asked.
        if state == 'running' and (domain.has_backup_job() or
                                   domain.has_job()):
            found.append('has a job')
        if '<mirror' in domain.xml():
            found.append('has a block job')
        return found

    @staticmethod
    def _frozen(one: Watched) -> list[str]:
        end = time.monotonic() + CLEAN_TIMEOUT
        while ((said := _freeze_status(one)) != 'thawed' and
               time.monotonic() < end):
            time.sleep(process.POLL_SECONDS)
        return [] if said == 'thawed' else [f'{one.server.name} is {said}']


def _freeze_status(one: Watched) -> str:
    try:
        return str(one.server.domain.agent('guest-fsfreeze-status'))
    except settings.LabError as error:
        return str(error)               # no agent yet, in one that boots


HEADINGS = f'{"fault":52}{"ok":4}{"time, s":>9}  image'


def line(row: Row) -> str:
    """A row of the printed table."""
    ok = 'yes' if row.ok else 'NO'
    return (f'{row.name:52}{ok:4}{row.seconds:9.1f}'
            f'  {row.image or "-"}').rstrip()

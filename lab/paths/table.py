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

"""Every way to capture, of every kind of disk, in every state: a table."""

import collections.abc
import contextlib
import dataclasses
import itertools
import json
import os
import pathlib
import re
import subprocess
import time

from lab.observe import disks
from lab.observe import inspect
from lab.observe import measure
from lab.observe import processes
from lab.observe import watch
from lab.openstack import ceph
from lab.openstack import cloud
from lab.openstack import config
from lab.openstack import domain
from lab.openstack import guest
from lab.openstack import process
from lab.openstack import settings
from lab.openstack import stack
from lab.openstack import steps
from lab.paths import cases

NAME = 'snapdriver-paths'
BOOT_TIMEOUT = 120.0
FROZEN = '{"execute": "guest-fsfreeze-status"}'

COMPRESSED = re.compile(r'[1-9][0-9.]*% compressed clusters')
# State: the action into it, the status there, the action back.
STATES = {'running': ('', 'ACTIVE', ''),
          'paused': ('pause', 'PAUSED', 'unpause'),
          'stopped': ('os-stop', 'SHUTOFF', 'os-start'),
          'suspended': ('suspend', 'SUSPENDED', 'resume')}
DOMAIN_STATES = {'running': 'running', 'paused': 'paused',
                 'stopped': 'shut off', 'suspended': 'shut off'}


@dataclasses.dataclass
class Row:
    """What became of it."""

    name: str
    ok: bool = False
    path: str | None = None
    disk: str = ''
    state: str = ''
    seconds: float | None = None
    guest_stopped_seconds: float | None = None
    staging_bytes: int | None = None
    consistency: str | None = None
    equal: bool | None = None
    #: How: `bytes` with the disk, or by what the guest has written.
    compared: str = ''
    problems: list[str] = dataclasses.field(default_factory=list)


class Paths:
    """Takes the snapshots."""

    def __init__(self, lab: stack.Stack) -> None:
        self.lab = lab
        self.api = lab.cloud
        self.folder = lab.settings.root / 'paths'
        self._servers: dict[str, measure.Server] = {}
        self._loops: list[str] = []
        self.rows: list[Row] = []

    def run(self, wanted: list[cases.Case]) -> None:
        """Do it; nova-compute has its usual options in the end."""
        settings.make_directory(self.folder)
        if wanted[-1:] and wanted[-1].disk in disks.IMAGES:
            # Without it neither can delete what a run has left in Ceph.
            self.lab.images(wanted[-1].images)
            self.lab.compute(wanted[-1].compute)
        self._clean()
        try:
            for (compute, images), group in itertools.groupby(
                    wanted, key=lambda case: (case.compute, case.images)):
                self.lab.images(images)
                self.lab.compute(compute)
                for case in group:
                    self._case(case)
        finally:
            # Before the cluster: what is on it has to be removed.
            self._clean()
            self.lab.compute(config.Compute())
            self.lab.images(config.Images())
            self.lab.ceph.stop()

    def _clean(self) -> None:
        for one in cloud.named(self.api.servers(), NAME):
            self.api.delete_server(one['id'])
        for image in cloud.named(self.api.images(), f'{NAME}-row'):
            self.api.delete_image(image['id'])
        while self._loops:
            process.output('losetup', '-d', self._loops.pop())

    def _case(self, case: cases.Case) -> None:
        row = Row(case.name, disk=case.disk, state=case.state)
        try:
            _Attempt(self, case, row).run()
        except (settings.LabError, OSError, ValueError) as error:
            row.problems.append(str(error))
            # What it left of the server is no start for the next row.
            self.forget(case.disk)
        row.ok = not row.problems
        self.rows.append(row)
        print(line(row), flush=True)
        for problem in row.problems:
            print(f'    {problem}', flush=True)

    def forget(self, disk: str) -> None:
        known = self._servers.pop(disk, None)
        if known is not None:
            self.api.delete_server(known.id)

    def server(self, disk: str) -> measure.Server:
        """The server with this kind of disk; it writes."""
        if disk not in self._servers:
            made = self.api.new_server(
                f'{NAME}-{disk}', self._base(disk), stack.SMALL_FLAVOR)
            self.api.wait_server(made)
            self._servers[disk] = measure.server(self.api, made)
            console = measure.Console(self._servers[disk].console)
            console.wait(measure.BEAT, BOOT_TIMEOUT)
            if disk == 'block':
                self._loops.append(disks.use_device(
                    self._servers[disk], self.folder / 'domain.xml'))
                console = measure.Console(self._servers[disk].console)
                console.wait(measure.RESTORED, BOOT_TIMEOUT)
        return self._servers[disk]

    def _base(self, disk: str) -> str:
        if disk not in disks.IMAGES:
            return self.lab.small_image(f'{stack.IMAGE}-paths-{disk}-'
                                        f'{self.lab.guest.version()}')
        # Ceph clones none but raw ones. It goes with its cluster, or it would
        # be there without its data.
        # And seconds for a shutdown, to which this guest does not listen.
        return self.lab.small_image(f'{NAME}-row-base-{disk}', 'raw',
                                    os_shutdown_timeout='1')


class _Attempt:
    """One row: a snapshot, and all that has to hold."""

    def __init__(self, paths: Paths, case: cases.Case, row: Row) -> None:
        self.paths, self.lab, self.api = paths, paths.lab, paths.api
        self.case, self.row = case, row
        self.server = paths.server(case.disk)
        self.folder = paths.folder
        self.image: cloud.Json = None

    def run(self) -> None:
        case, row = self.case, self.row
        before = self._sources()
        console = measure.Console(self.server.console, from_end=True)
        first = self._beat(console)
        self._enter()
        with self._for_root_alone():
            self._snapshot()
        if self.server.domain.state() != DOMAIN_STATES[case.state]:
            row.problems.append(f'it is {self.server.domain.state()}')
        still = self._compare_bytes()
        if self._sources() != before:
            row.problems.append('the domain has other disks')
        self._leave()
        last = self._go_on(console, first)
        if not still:
            self._compare_rounds(first, last)
        self._nothing_left()
        self.api.delete_image(self.image['id'])
        if (case.disk, case.state) == ('block', 'stopped'):
            # Nova's start has written the domain anew, with its file.
            self.paths.forget(case.disk)

    def _sources(self) -> str:
        return process.output(*domain.VIRSH, 'domblklist',
                              '--inactive', self.server.domain.name)

    @staticmethod
    def _beat(console: measure.Console) -> int:
        return int(console.wait(measure.BEAT, measure.BEAT_TIMEOUT)[1])

    def _enter(self) -> None:
        action, status, _ = STATES[self.case.state]
        if action:
            self.api.action(self.server.id, action)
            self.api.wait_server(self.server.id, status)

    @contextlib.contextmanager
    def _for_root_alone(self) -> collections.abc.Iterator[None]:
        """Take a stopped server's disk from a nova-compute that is not root.

        Not for longer: Nova's own start would fail.
        """
        if self.case.user == config.ROOT or self.case.state != 'stopped':
            yield
            return
        known = self.server.disk.stat()
        os.chown(self.server.disk, 0, 0)
        self.server.disk.chmod(0o600)
        try:
            yield
        finally:
            os.chown(self.server.disk, known.st_uid, known.st_gid)
            self.server.disk.chmod(known.st_mode & 0o777)

    def _leave(self) -> None:
        action = STATES[self.case.state][2]
        if action:
            self.api.action(self.server.id, action)
            self.api.wait_server(self.server.id)

    def _snapshot(self) -> None:
        status = STATES[self.case.state][1]
        log = measure.Said(self.lab.settings.log('nova-compute'))
        with watch.Watch(self.server.domain.name,
                         self.lab.settings.snapshots) as seen:
            began = time.monotonic()
            image_id = self.api.action(
                self.server.id, 'createImage',
                name=f'{NAME}-row')['image_id']
            self.image = self.api.wait_image(image_id)
            self.row.seconds = round(time.monotonic() - began, 2)
            self.api.wait_server(self.server.id, status)
        self.row.staging_bytes = seen.staging_peak
        if self.case.state == 'running':
            self.row.guest_stopped_seconds = seen.stopped_seconds()
        self._described(log)

    def _described(self, log: measure.Said) -> None:
        """The image names the path; stock's does not, but the log does."""
        row, image = self.row, self.image
        row.path = image.get('snapdriver_path')
        if row.path is None and log.matches('Snapshot path: stock, as '):
            row.path = 'stock'
        row.consistency = image.get('snapdriver_consistency')
        told = (row.path, row.consistency, image['disk_format'])
        wanted = (self.case.path, self.case.consistency,
                  self.case.image_format)
        if told != wanted:
            row.problems.append(f'it is {told}, not {wanted}')

    def _compare_bytes(self) -> bool:
        """Compare with the disk of a guest that stands.

        :returns: whether it stands
        """
        self._download()
        if self.case.state == 'running':
            return False
        # -U: QEMU has a paused guest's disk open, and does not write.
        done = _complaint(
            ['qemu-img', 'compare', '-U', '-f', self.case.image_format, '-F',
             disks.FORMATS.get(self.case.disk, 'raw'), str(self._file),
             str(self._disk())])
        self.row.equal, self.row.compared = done == '', 'bytes'
        if done:
            self.row.problems.append(done)
        return True

    def _disk(self) -> pathlib.Path:
        """A file with what is on the disk, or the disk's own."""
        if self.case.disk not in disks.IMAGES:
            return self.server.disk
        return self.lab.ceph.export(
            f'{ceph.DISKS}/{self.server.id}_disk', self.folder / 'disk')

    @property
    def _file(self) -> pathlib.Path:
        return self.folder / 'image'

    def _download(self) -> None:
        self.api.download(self.image['id'], self._file)
        if self.case.image_format == 'qcow2':
            wrong = _complaint(
                ['qemu-img', 'check', '-f', 'qcow2', str(self._file)])
            if wrong:
                self.row.problems.append(wrong)
        if self.case.note in ('zlib', 'zstd'):
            self._compressed()

    def _compressed(self) -> None:
        told = ''.join(
            process.output('qemu-img', verb, '-f', 'qcow2', str(self._file))
            for verb in ('info', 'check'))
        if (f'compression type: {self.case.note}' not in told
                or not COMPRESSED.search(told)):
            self.row.problems.append(f'it is not compressed: {told}')

    def _compare_rounds(self, first: int, last: int) -> None:
        """Find the guest's rounds in the image: whole, and of that time."""
        held, wrong = inspect.image(
            self._file, self.case.image_format, self.folder / 'inspect',
            replay=self.case.consistency != 'filesystem')
        if not wrong and not first <= held <= last:
            wrong = f'it holds round {held}, not {first} to {last}'
        self.row.equal, self.row.compared = not wrong, 'rounds'
        if wrong:
            self.row.problems.append(wrong)

    def _go_on(self, console: measure.Console, first: int) -> int:
        """See that the guest writes on, with no round left out.

        :returns: its last round
        """
        if self.case.state == 'stopped':
            return self._booted(first)
        numbers = [first]
        end = time.monotonic() + measure.BEAT_TIMEOUT
        fresh = time.monotonic() + 1
        while time.monotonic() < end:
            new = [int(match[1]) for line in console.lines()
                   if (match := measure.BEAT.match(line))]
            numbers += new
            if new and time.monotonic() > fresh:
                break
            time.sleep(measure.SAMPLE_SECONDS)
        if time.monotonic() > end:
            self.row.problems.append('the guest does not write')
        if numbers != list(range(first, first + len(numbers))):
            self.row.problems.append("the guest's rounds have a gap")
        self._thawed()
        return numbers[-1]

    def _booted(self, first: int) -> int:
        """A stopped guest has booted again: its disk is whole."""
        held: list[int] = []

        def there() -> bool:
            text = self.server.console.read_text(errors='replace')
            found = re.findall(r'restored a=(\d+) b=\d+ journal=ok'
                               r' payload=ok fs=ok', text)
            held.extend(int(one) for one in found[-1:])
            return bool(held) and held[-1] >= first

        process.wait_for('its disk after the start', there, BOOT_TIMEOUT,
                         self.server.console)
        return held[-1]

    def _thawed(self) -> None:
        said = process.output(
            *domain.VIRSH, 'qemu-agent-command',
            self.server.domain.name, '--timeout', '10', FROZEN)
        if json.loads(said)['return'] != 'thawed':
            self.row.problems.append(f'the guest is not thawed: {said}')

    def _nothing_left(self) -> None:
        problems, defined = self.row.problems, self.server.domain
        left = [path.name for path in self.lab.settings.snapshots.iterdir()]
        if left:
            problems.append(f'left on the disk: {left}')
        if defined.has_backup_job() or defined.has_job():
            problems.append('a job is left')
        if not defined.persistent():
            problems.append('the domain is transient')
        if self.api.server(self.server.id)['OS-EXT-STS:task_state']:
            problems.append('a task state is left')
        problems += [f'left running: {one}' for one in processes.strays()]


def _complaint(command: list[str]) -> str:
    """What a command has to complain about; empty if it found nothing."""
    done = subprocess.run(command, text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT,
                          env=settings.environment())
    return '' if done.returncode == 0 else f'{command[1]}: {done.stdout}'


HEADINGS = (f'{"row":48}{"ok":4}{"time, s":>9}{"stopped, s":>12}'
            f'{"staging, MiB":>14}  {"consistency":13}{"equal":6}')


def line(row: Row) -> str:
    """A row of the printed table."""
    def number(value: float | None, form: str) -> str:
        return '-' if value is None else format(value, form)

    staging = None if row.staging_bytes is None else (
        row.staging_bytes / guest.MI)
    ok, equal = ('yes' if fine else 'NO' for fine in (row.ok, row.equal))
    return (f'{row.name:48}{ok:4}{number(row.seconds, ".1f"):>9}'
            f'{number(row.guest_stopped_seconds, ".2f"):>12}'
            f'{number(staging, ".1f"):>14}  {row.consistency or "-":13}'
            f'{equal:4}{row.compared}').rstrip()


def run(lab: stack.Stack, target: pathlib.Path | None,
        only: collections.abc.Sequence[str]) -> int:
    """Take all snapshots on a lab that is up; returns the exit status.

    :param only: words of which a row's name has to have one
    """
    wanted = [case for case in cases.cases()
              if not only or any(word in case.name for word in only)]
    print(HEADINGS)
    paths = Paths(lab)
    try:
        paths.run(wanted)
    finally:
        # What there is, also after a failure: it has taken long.
        steps.save(target, rows=paths.rows)
    fine = [row for row in paths.rows if row.ok]
    print(f'{len(fine)} of {len(wanted)} rows are ok')
    return 0 if wanted and len(fine) == len(wanted) else 1

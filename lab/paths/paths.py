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

"""Take a snapshot by each path, of each kind of disk, in each state."""

import argparse
import collections.abc
import contextlib
import dataclasses
import itertools
import os
import pathlib
import re
import time

from lab import command
from lab.observe import disks
from lab.observe import measure
from lab.observe import remains
from lab.observe import rounds
from lab.observe import watch
from lab.openstack import ceph
from lab.openstack import cloud
from lab.openstack import config
from lab.openstack import domain
from lab.openstack import guest
from lab.openstack import process
from lab.openstack import settings
from lab.openstack import stack
from lab.paths import cases

NAME = 'snapdriver-paths'
COMPRESSED = re.compile(r'[1-9][0-9.]*% compressed clusters')


@dataclasses.dataclass(frozen=True)
class State:
    """How a server is brought into a state and back, and what it is then."""

    enter: str
    status: str
    leave: str
    domain: str


STATES = {'running': State('', 'ACTIVE', '', 'running'),
          'paused': State('pause', 'PAUSED', 'unpause', 'paused'),
          'stopped': State('os-stop', 'SHUTOFF', 'os-start', 'shut off'),
          'suspended': State('suspend', 'SUSPENDED', 'resume', 'shut off')}


@dataclasses.dataclass
class Row(command.Row):
    """The result of one snapshot."""

    path: str | None = None
    disk: str = ''
    state: str = ''
    guest_stopped_seconds: float | None = None
    staging_bytes: int | None = None
    consistency: str | None = None
    #: Whether the image is the disk at the captured instant.
    equal: bool | None = None
    #: By `bytes`, with the disk, or by `rounds`, with the guest's writes.
    compared: str = ''


class Paths:
    """Takes the snapshots, of one server for each kind of disk."""

    def __init__(self, lab: stack.Stack,
                 target: pathlib.Path | None = None) -> None:
        self.lab = lab
        self.api = lab.cloud
        self.folder = lab.settings.root / 'paths'
        self._servers: dict[str, measure.Server] = {}
        self._loops: list[str] = []
        self.table = command.Table(line, target)

    @property
    def rows(self) -> list[Row]:
        return self.table.rows

    def run(self, wanted: list[cases.Case]) -> None:
        """Take them; restore nova-compute's and Glance's options."""
        settings.make_directory(self.folder)
        for disk in {case.disk for case in wanted if case.written}:
            self._base(disk)            # stays in a file, without Ceph
        if wanted[-1:] and wanted[-1].disk in disks.IMAGES:
            # Only with Ceph can a former run's images and disks be deleted.
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
            # Before the cluster, as it holds some of them.
            self._clean()
            self.lab.compute(config.Compute())
            self.lab.images(config.Images())
            self.lab.ceph.stop()

    def _clean(self) -> None:
        self.api.clean(NAME, f'{NAME}-row')
        while self._loops:
            process.output('losetup', '-d', self._loops.pop())

    def _case(self, case: cases.Case) -> None:
        row = Row(case.name, disk=case.disk, state=case.state)
        try:
            _Attempt(self, case, row).run()
        except (settings.LabError, OSError, ValueError) as error:
            row.problems.append(str(error))
            # The next row needs a server in a known state.
            self.forget(case.disk)
        self.table.add(row)

    def forget(self, disk: str) -> None:
        """Delete a server, so that the next row makes another one."""
        known = self._servers.pop(disk, None)
        if known is not None:
            self.api.delete_server(known.id)

    def server(self, disk: str) -> measure.Server:
        """Return a server with this kind of disk, whose guest writes."""
        if disk not in self._servers:
            made = measure.boot(self.api, f'{NAME}-{disk}', self._base(disk),
                                stack.SMALL_FLAVOR)
            self._servers[disk] = made
            made.wait_beat()
            if disk == 'block':
                self._loops.append(disks.use_device(
                    made, self.folder / 'domain.xml'))
                measure.Console(made.console).wait(measure.RESTORED,
                                                   measure.BOOT_TIMEOUT)
            made.domain.wait_agent()
        return self._servers[disk]

    def _base(self, disk: str) -> str:
        if disk not in disks.IMAGES:
            return self.lab.small_image(f'{stack.IMAGE}-paths-{disk}-'
                                        f'{self.lab.guest.version()}')
        # Ceph clones only raw images. This one is deleted with its cluster,
        # or Glance would show it without its data. Its guest does not obey a
        # shutdown, which Nova would wait for.
        return self.lab.small_image(f'{NAME}-row-base-{disk}', 'raw',
                                    os_shutdown_timeout='1')


class _Attempt:
    """One snapshot, and all checks."""

    def __init__(self, paths: Paths, case: cases.Case, row: Row) -> None:
        self.paths, self.lab, self.api = paths, paths.lab, paths.api
        self.case, self.row = case, row
        self.state = STATES[case.state]
        self.server = paths.server(case.disk)
        self.file = paths.folder / 'image'
        self.image: cloud.Json = None

    def run(self) -> None:
        case, row = self.case, self.row
        before = self._sources()
        writes = rounds.Rounds(self.server)
        if self.state.enter:
            self.api.change(self.server.id, self.state.enter,
                            self.state.status)
        with self._disk_for_root_alone():
            self._snapshot()
        if self.server.domain.state() != self.state.domain:
            row.problems.append(f'it is {self.server.domain.state()}')
        self._download()
        if case.state != 'running':
            self._compare_bytes()
        if self._sources() != before:
            row.problems.append('the domain has other disks')
        if self.state.leave:
            self.api.change(self.server.id, self.state.leave, 'ACTIVE')
        self._go_on(writes)
        if case.state == 'running':
            self._compare_rounds(writes)
        row.problems += self._left()
        self.api.delete_image(self.image['id'])
        if (case.disk, case.state) == ('block', 'stopped'):
            # Nova's start has defined the domain anew, with its file.
            self.paths.forget(case.disk)

    def _sources(self) -> str:
        return domain.virsh('domblklist', '--inactive',
                            self.server.domain.name)

    @contextlib.contextmanager
    def _disk_for_root_alone(self) -> collections.abc.Iterator[None]:
        """Give a stopped server's disk to root, if nova-compute is not root.

        For the snapshot alone: Nova's own start would fail.
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

    def _snapshot(self) -> None:
        log = measure.Said(self.lab.settings.log('nova-compute'))
        with watch.Watch(self.server.domain.name,
                         self.lab.settings.snapshots) as seen:
            began = time.monotonic()
            self.image = self.api.wait_image(
                self.api.create_image(self.server.id, f'{NAME}-row'))
            self.row.seconds = round(time.monotonic() - began, 2)
            self.api.wait_server(self.server.id, self.state.status)
        self.row.staging_bytes = seen.staging_peak
        if self.case.state == 'running':
            self.row.guest_stopped_seconds = seen.stopped_seconds()
        self._check_properties(log)

    def _check_properties(self, log: measure.Said) -> None:
        """Compare path, consistency and format with the case's.

        Nova's own snapshot() sets no properties, but the log names it.
        """
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
        if self.case.written and (
                not log.matches('Snapshot destination: rbd')
                or log.matches('refused an image in the pool')):
            row.problems.append('it was sent to Glance')

    def _download(self) -> None:
        self.api.download(self.image['id'], self.file)
        if self.case.image_format == 'qcow2':
            self._complain(process.complaint('qemu-img', 'check', '-f',
                                             'qcow2', self.file))
        if self.case.note in ('zlib', 'zstd'):
            self._check_compression()

    def _check_compression(self) -> None:
        told = ''.join(
            process.output('qemu-img', verb, '-f', 'qcow2', self.file)
            for verb in ('info', 'check'))
        if (f'compression type: {self.case.note}' not in told
                or not COMPRESSED.search(told)):
            self._complain(f'it is not compressed: {told}')

    def _complain(self, problem: str) -> None:
        if problem:
            self.row.problems.append(problem)

    def _compare_bytes(self) -> None:
        """Compare with the disk of a guest that stands."""
        # -U: QEMU has a paused guest's disk open, and does not write.
        wrong = process.complaint(
            'qemu-img', 'compare', '-U', '-f', self.case.image_format, '-F',
            disks.disk_format(self.case.disk), self.file, self._disk())
        self.row.equal, self.row.compared = not wrong, 'bytes'
        self._complain(wrong)

    def _disk(self) -> pathlib.Path:
        """Return the disk's file, or a copy of a disk on Ceph."""
        if self.case.disk not in disks.IMAGES:
            return self.server.disk
        return self.lab.ceph.export(f'{ceph.DISKS}/{self.server.id}_disk',
                                    self.paths.folder / 'disk')

    def _compare_rounds(self, writes: rounds.Rounds) -> None:
        """Find one of the guest's rounds in the image, whole."""
        wrong = writes.image_problem(
            self.file, self.case.image_format, self.paths.folder / 'inspect',
            replay=self.case.consistency != 'filesystem')
        self.row.equal, self.row.compared = not wrong, 'rounds'
        self._complain(wrong)

    def _go_on(self, writes: rounds.Rounds) -> None:
        """Check that the guest writes on, or has booted from a whole disk."""
        if self.case.state == 'stopped':
            self._wait_restored(writes.first)
            return
        self.row.problems += writes.problems()
        said = self.server.domain.freeze_status()
        if said != 'thawed':
            self._complain(f'the guest is not thawed: {said}')

    def _wait_restored(self, first: int) -> None:
        """Wait until a guest that boots has found its disk whole."""
        def there() -> bool:
            text = self.server.console.read_text(errors='replace')
            found = re.findall(r'restored a=(\d+) b=\d+ journal=ok'
                               r' payload=ok fs=ok', text)
            return bool(found) and int(found[-1]) >= first

        process.wait_for('its disk after the start', there,
                         measure.BOOT_TIMEOUT, self.server.console)

    def _left(self) -> list[str]:
        found = remains.on_host(self.lab.settings)
        found += remains.of_domain(self.server.domain)
        if self.api.task_state(self.server.id):
            found.append('a task state is left')
        return found


def line(row: Row) -> str:
    """Format a row."""
    def number(value: float | None, form: str) -> str:
        return '-' if value is None else format(value, form)

    staging = None if row.staging_bytes is None else (
        row.staging_bytes / guest.MI)
    ok, equal = ('yes' if fine else 'NO' for fine in (row.ok, row.equal))
    return (f'{row.name:48}{ok:4}{number(row.seconds, ".1f"):>9}'
            f'{number(row.guest_stopped_seconds, ".2f"):>12}'
            f'{number(staging, ".1f"):>14}  {row.consistency or "-":13}'
            f'{equal:4}{row.compared}').rstrip()


HEADINGS = (f'{"row":48}{"ok":4}{"time, s":>9}{"stopped, s":>12}'
            f'{"staging, MiB":>14}  {"consistency":13}{"equal":6}')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    command.add_json(parser)
    command.add_only(parser)


def run(lab: stack.Stack, args: argparse.Namespace) -> int:
    print(HEADINGS)
    paths = Paths(lab, args.json)
    paths.run(command.chosen(cases.cases(), args.only))
    return paths.table.status()

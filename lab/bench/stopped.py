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

"""Measure how long a server is down for a cold snapshot."""

import argparse
import dataclasses
import functools
import os
import pathlib
import shutil
import statistics

from lab import command
from lab.observe import measure
from lab.observe import watch
from lab.openstack import config
from lab.openstack import process
from lab.openstack import settings
from lab.openstack import stack
from lab.openstack import steps

NAME = 'snapdriver-stopped'
RUNS = 3
GIB = 1 << 30
BACK_TIMEOUT = 600.0
BACK_POLL_SECONDS = 0.1
# Of the file system, besides the data.
SPARE_BYTES = 4 * GIB
PIECE_BYTES = 8 << 20
DISABLED = ('workarounds', 'disable_libvirt_livesnapshot', 'true')


@dataclasses.dataclass(frozen=True)
class Case:
    """A way to copy the disk, and how much data is on it."""

    name: str
    gib: int
    driver: str = 'ours'
    #: The copy is on the disk's file system, which has reflinks.
    shares: bool = False


CASES = (Case('clone, 1 GiB', 1, shares=True), Case('copy, 1 GiB', 1),
         Case("Nova's own, 1 GiB", 1, 'stock'),
         Case('clone, 8 GiB', 8, shares=True))


@dataclasses.dataclass
class Row:
    """For how long the guest was down in each run."""

    name: str
    gib: int
    stopped_seconds: list[float] = dataclasses.field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.stopped_seconds)


class Stopped:
    """Takes snapshots of a server whose disk is on XFS."""

    #: Once it is booted.
    server: measure.Server

    def __init__(self, lab: stack.Stack) -> None:
        self.lab = lab
        self.api = lab.cloud
        self.folder = lab.settings.root / 'stopped'
        self.mounted = self.folder / 'xfs'
        self.rows = {case: Row(case.name, case.gib) for case in CASES}

    def plan(self) -> steps.Plan:
        step = steps.Step
        plan: steps.Plan = [
            step('a file system with reflinks', self._mount),
            step('a server that writes', self._boot)]
        gib = 0
        for case in CASES:
            if case.gib != gib:
                gib = case.gib
                plan.append(step(f'{gib} GiB of data on its disk',
                                 functools.partial(self._fill, gib)))
            plan += [step(f'{case.name}, {number} of {RUNS}',
                          functools.partial(self._case, case))
                     for number in range(1, RUNS + 1)]
        return plan

    def run(self) -> None:
        """Do it; restore nova-compute's options."""
        settings.make_directory(self.mounted)
        self._clean()
        try:
            steps.run(self.plan())
        finally:
            self.lab.compute(config.Compute())
            self._clean()

    def _clean(self) -> None:
        self.api.clean(NAME, f'{NAME}-run')
        if os.path.ismount(self.mounted):
            process.output('umount', self.mounted)
        self._image.unlink(missing_ok=True)

    @property
    def _image(self) -> pathlib.Path:
        return self.folder / 'xfs.img'

    def _mount(self) -> str:
        most = max(case.gib for case in CASES) * GIB + SPARE_BYTES
        free = shutil.disk_usage(self.folder).free
        # For the file system, and for what is uploaded.
        if free < 2 * most:
            raise settings.LabError(
                f'{self.folder} has {free // GIB} GiB left, and this needs'
                f' {2 * most // GIB}')
        with open(self._image, 'wb') as file:
            file.truncate(most)
        process.output('mkfs.xfs', '-q', self._image)
        process.output('mount', '-o', 'loop', self._image, self.mounted)
        settings.make_directory(self.mounted)
        return ''

    def _boot(self) -> str:
        """Boot a server with a raw disk, and move the disk."""
        self.lab.compute(config.Compute(
            options=(('libvirt', 'images_type', 'flat'),)))
        image = self.lab.small_image(
            f'{NAME}-{self.lab.guest.version()}')
        self.server = measure.boot(self.api, NAME, image,
                                   stack.SMALL_FLAVOR)
        console = measure.Console(self.server.console)
        console.wait(measure.BEAT, measure.BOOT_TIMEOUT)
        self._move_disk()
        console.wait(measure.RESTORED, measure.BOOT_TIMEOUT)
        return ''

    def _move_disk(self) -> None:
        """Restart its domain with a larger disk, on that file system.

        Quickly: Nova looks at a domain some seconds after it has stopped.
        """
        one = self.server.domain
        one.stop()
        process.output('cp', '--sparse=always', self.server.disk,
                       self._disk)
        os.truncate(self._disk, (1 + max(case.gib for case in CASES)) * GIB)
        one.use_disk(self._disk, self.folder / 'domain.xml')
        one.start()

    @property
    def _disk(self) -> pathlib.Path:
        return self.mounted / 'disk'

    def _fill(self, gib: int) -> str:
        """Write data to its disk, beyond the guest's file system.

        QEMU has the file open, and sees them as if the guest had written.
        """
        with open(self._disk, 'r+b') as file:
            file.seek(GIB)
            for _ in range(gib * GIB // PIECE_BYTES):
                file.write(os.urandom(PIECE_BYTES))
            os.fsync(file.fileno())
        return ''

    def _case(self, case: Case) -> str:
        options = [DISABLED]
        if case.shares:
            options.append(('snapdriver', 'scratch_directory',
                            str(self.mounted / 'scratch')))
        self.lab.compute(config.Compute(case.driver, options=tuple(options)))
        seconds = self._snapshot()
        self.rows[case].stopped_seconds.append(seconds)
        return f'down for {seconds:.2f} s'

    def _snapshot(self) -> float:
        """Take a snapshot until the server is back; abandon its upload."""
        console = measure.Console(self.server.console, from_end=True)
        with watch.Watch(self.server.domain.name, self.folder) as seen:
            image = self.api.create_image(self.server.id, f'{NAME}-run')
            for state in ('shut off', 'running'):
                self._wait_domain(state)
            console.wait(measure.BEAT, measure.BEAT_TIMEOUT)
        self.api.delete_image(image)
        self.api.wait_server(self.server.id)
        return seen.stopped_seconds()

    def _wait_domain(self, state: str) -> None:
        process.wait_for(
            f'the domain to be {state}',
            lambda: self.server.domain.state() == state, BACK_TIMEOUT,
            self.lab.settings.log('nova-compute'), BACK_POLL_SECONDS)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    command.add_json(parser)


def run(lab: stack.Stack, args: argparse.Namespace) -> int:
    stopped = Stopped(lab)
    stopped.run()
    clone, copy, stock, large = (stopped.rows[case] for case in CASES)
    ratios = {'copy_vs_stock': round(copy.median / stock.median, 2),
              'clone_8_vs_1_gib': round(large.median / clone.median, 2)}
    for row in stopped.rows.values():
        runs = ', '.join(f'{one:.2f}' for one in row.stopped_seconds)
        print(f'{row.name:20}{row.median:8.2f} s   ({runs})')
    for name, ratio in ratios.items():
        print(f'{name:20}{ratio:8.2f}')
    rows = [{**dataclasses.asdict(row), 'median': row.median}
            for row in stopped.rows.values()]
    command.save(args.json, rows=rows, ratios=ratios)
    return 0

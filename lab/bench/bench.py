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

"""Measure what each way to take a snapshot costs."""

import argparse
import collections.abc
import dataclasses
import functools
import importlib.metadata
import os
import pathlib
import platform
import shutil
import time

from lab.bench import cephways
from lab.bench import contenders
from lab.bench import disks
from lab.bench import figures
from lab.bench import plot
from lab.bench import scaling
from lab.bench import table
from lab.bench import usage
from lab import command
from lab.observe import measure
from lab.openstack import config
from lab.openstack import process
from lab.openstack import settings
from lab.openstack import stack
from lab.openstack import steps

RUNS = 5
IDLE_SECONDS = 15.0
COPY_TIMEOUT = 600.0
# Root disks in files without a backing file, of either format.
FLAT = ('libvirt', 'images_type', 'flat')
DISK_OPTIONS = {
    'raw': (FLAT,),
    'qcow2': (FLAT, ('DEFAULT', 'force_raw_images', 'false'))}
# Of the largest disk: its template, the server's copy, the finished image,
# the image in Glance, and what Nova's own driver stages, twice.
COPIES = 6


class Bench:
    """A benchmark and its results.

    Disk by disk, round by round, contender by contender.

    :param words: take only what has one of them in its name; all for none
    :param axes: of scaling.AXES, for how the time grows
    :param grows_to: MiB of data, at most, on these
    """

    #: Once it is booted.
    subject: contenders.Subject

    def __init__(self, lab: stack.Stack,
                 chosen: collections.abc.Sequence[disks.Disk], runs: int,
                 words: collections.abc.Sequence[str],
                 axes: collections.abc.Sequence[str] = (),
                 grows_to: int = 0) -> None:
        self.lab = lab
        self.api = lab.cloud
        self.folder = lab.settings.root / 'bench'
        self.disks = chosen
        self.runs = runs
        self.words = words
        self.axes = axes
        self.grows_to = grows_to if axes else 0
        self.rows: list[figures.Row] = []
        self.machine: dict[str, object] = {}
        self._spare = ''
        self._compute: config.Compute | None = None
        self.scaling = scaling.Scaling(lab, self.folder, self._boot_copy)

    def wanted(self, disk: disks.Disk) -> list[str]:
        """Return the contenders for a disk, in the order of their runs."""
        return [name for name in cephways.ALL
                if name in disk.contenders and (not self.words or any(
                    word in f'{name} {disk.name}' for word in self.words))]

    def plan(self) -> steps.Plan:
        plan: steps.Plan = [steps.Step('the machine', self._describe)]
        for disk in self.disks:
            if self.wanted(disk):
                plan += self._disk_plan(disk)
        for axis in self.axes:
            plan += [steps.Step(f'scaling: {axis}', self._scaling(axis)),
                     steps.Step('its servers, removed', self._clean)]
        return plan

    def _scaling(self, axis: str) -> collections.abc.Callable[[], str]:
        return {
            'servers': lambda: self.scaling.servers(self.grows_to, self.runs),
            'data': lambda: self.scaling.data(self.grows_to),
            'virtual': self.scaling.virtual}[axis]

    def _disk_plan(self, disk: disks.Disk) -> steps.Plan:
        step = steps.Step
        plan: steps.Plan = [
            step('Glance', functools.partial(self._glance, disk)),
            step(f'{disk.name}: a server with it',
                 functools.partial(self._boot, disk))]
        if disk.busy:
            plan.append(step(f'{disk.name}: idle', self._idle))
        order = self.wanted(disk)
        for number in range(1, min(self.runs, disk.runs) + 1):
            plan += [step(f'{disk.name}: {name} {number}',
                          functools.partial(self._take, name, number))
                     for name in order]
            # Back and forth: nova-compute starts less often, and a drift is
            # the same for all.
            order = order[::-1]
        plan.append(step(f'{disk.name}: removed', self._clean))
        return plan

    def run(self) -> None:
        """Do it; restore nova-compute's options."""
        self._check_space()
        self._clean()
        try:
            steps.run(self.plan())
        finally:
            self._clean()
            self.lab.compute(config.Compute())
            if any(disk.ceph for disk in self.disks):
                self.lab.images(config.Images())
                self.lab.ceph.stop()

    def _check_space(self) -> None:
        settings.make_directory(self.folder)
        free = shutil.disk_usage(self.folder).free
        needed = COPIES * max(self.grows_to * disks.MI,
                              *(disk.data_bytes for disk in self.disks))
        if free < needed:
            raise settings.LabError(
                f'{self.folder} has {free >> 30} GiB left, and this needs'
                f' {needed >> 30}')

    def _clean(self) -> None:
        """Remove servers, images and files."""
        self.api.clean(contenders.NAME, contenders.NAME)
        shutil.rmtree(self.folder, ignore_errors=True)
        settings.make_directory(self.folder)

    def _describe(self) -> None:
        self.machine = machine(self.lab)

    # Steps

    def _glance(self, disk: disks.Disk) -> str:
        """Have Glance keep new images where they are to be."""
        # It stays in a file: a Glance without Ceph has to remove it.
        self._small_image(disk.disk_format)
        stores = ('rbd', 'file') if disk.ceph else ('file',)
        self.lab.images(config.Images(stores))
        return f'images in {stores[0]}'

    def _boot(self, disk: disks.Disk) -> None:
        """Boot a server, and replace its disk by this one."""
        template = disks.build(disk, self.lab.settings, self.folder,
                               self.lab.guest.small_disk)
        server = self._boot_copy(1, disk, template)
        self._compute = None            # the boot has started another
        self._spare = self._paused(disk.disk_format)
        if not disk.busy:
            server.domain.pause()
            server = dataclasses.replace(server, writes=False)
        self.subject = contenders.Subject(
            self.lab, disk.name, disk.disk_format, server, template,
            self.folder, 'raw' if disk.ceph else 'qcow2', disk.bytes)

    def _boot_copy(self, number: int, disk: disks.Disk,
                   template: pathlib.Path) -> measure.Server:
        """Boot a server that writes, with a copy of a file as its disk."""
        # The first contender's, so that it need not start again.
        plain = contenders.CONTENDERS['plain'].compute or config.Compute()
        self.lab.compute(with_disks(plain, disk.disk_format))
        server = self._server(disk.disk_format, number)
        replace_disk(server, template)
        return server

    def _server(self, disk_format: str, number: int) -> measure.Server:
        """Create a small server; its disk will be replaced."""
        return measure.boot(self.api, f'{contenders.NAME}-{number}',
                            self._small_image(disk_format),
                            stack.SMALL_FLAVOR)

    def _small_image(self, disk_format: str) -> str:
        # Nova caches an image as the options said when it came first.
        return self.lab.small_image(
            f'{stack.IMAGE}-bench-{disk_format}-{self.lab.guest.version()}')

    def _paused(self, disk_format: str) -> str:
        """Create a server that uses no CPU; return its id."""
        spare = self._server(disk_format, 0)
        self.api.change(spare.id, 'pause', 'PAUSED')
        return spare.id

    def _have(self, choice: config.Compute) -> None:
        """Have a nova-compute that has taken a snapshot already.

        The first one takes a second longer, with any driver: it imports
        modules, and fetches tokens and schemas.
        """
        if choice == self._compute:
            return
        self.lab.compute(choice)
        image = self.api.create_image(self._spare,
                                      f'{contenders.NAME}-first')
        self.api.delete_image(self.api.wait_image(image)['id'])
        self._compute = choice

    def _idle(self) -> str:
        """Measure the guest while nothing happens to it."""
        server = self.subject.server
        began = time.time()
        with self.subject.monitor() as used:
            gaps = measure.idle_gaps(server, self.lab.settings.snapshots,
                                     IDLE_SECONDS)
        row = figures.Row(
            self.subject.disk, figures.IDLE,
            cpu_seconds=usage.spent(used.samples, began, time.time()))
        self.rows.append(figures.with_gaps(row, gaps))
        return f'(longest gap {max(gaps):.2f} s)'

    def _take(self, name: str, number: int) -> str:
        """Take one run; if it fails, that is a row, too."""
        contender = cephways.ALL[name]
        row = figures.Row(self.subject.disk, name, number)
        missing = contender.missing(self.lab)
        if missing:
            if number == 1:
                self.rows.append(dataclasses.replace(row, missing=missing))
            return missing
        try:
            if contender.compute is not None:
                self._have(with_disks(contender.compute,
                                      self.subject.disk_format))
            row = contender.take(self.subject, row)
        except (settings.LabError, OSError, ValueError) as error:
            row = dataclasses.replace(row, problem=str(error))
        self.rows.append(row)
        return row.problem or f'({row.seconds:.2f} s)'

    # Results

    def found(self) -> dict[str, object]:
        return {'machine': self.machine, 'ratios': figures.ratios(self.rows),
                'medians': figures.medians(self.rows),
                'scaling': [dataclasses.asdict(point)
                            for point in self.scaling.points],
                'rows': [row.as_json() for row in self.rows]}


def with_disks(choice: config.Compute, disk_format: str) -> config.Compute:
    """Add the options that make root disks in files of a format."""
    return dataclasses.replace(
        choice, options=choice.options + DISK_OPTIONS[disk_format])


def replace_disk(server: measure.Server, source: pathlib.Path) -> None:
    """Restart a server with a copy of a file as its disk.

    Quickly: Nova looks at a domain some seconds after it has stopped.
    """
    new = server.folder / 'disk.new'
    process.output('cp', '--sparse=always', source, new,
                   timeout=COPY_TIMEOUT)
    server.domain.stop()
    os.replace(new, server.disk)
    try:
        _start(server)
    except settings.LabError:
        # Seen once: an emulated guest that hung in its boot.
        server.domain.stop()
        _start(server)


def _start(server: measure.Server) -> None:
    """Start a server's domain, and wait for its guest and its agent."""
    # Read past what it printed before.
    console = measure.Console(server.console, from_end=True)
    console.lines()
    server.domain.start()
    console.wait(measure.BEAT, measure.BOOT_TIMEOUT)
    server.domain.wait_agent()


def machine(lab: stack.Stack) -> dict[str, object]:
    """Describe what the figures were taken on."""
    memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
    file_system = process.output(
        'df', '--output=fstype', lab.settings.root).split()[-1]
    return {
        'cpu': cpu_model(), 'cores': os.cpu_count(),
        'memory_gib': round(memory / (1 << 30)),
        'kernel': platform.release(),
        'system': platform.freedesktop_os_release()['PRETTY_NAME'],
        'virt_type': lab.guest.virt_type(lab.settings),
        'file_system': file_system, 'python': platform.python_version(),
        'qemu': process.output('qemu-img', '--version').split()[2],
        'libvirt': process.output('libvirtd', '--version').split()[-1],
        'nova': importlib.metadata.version('nova'),
        'glance': importlib.metadata.version('glance'),
        # By other programs, which make the figures noisy.
        'load_before': os.getloadavg()[0]}


def cpu_model() -> str:
    text = pathlib.Path('/proc/cpuinfo').read_text()
    names = [line.partition(':')[2].strip() for line in text.splitlines()
             if line.startswith('model name')]
    return names[0] if names else platform.machine()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    command.add_json(parser)
    command.add_only(parser)
    parser.add_argument('--plot', metavar='FILE', type=command.path,
                        help='draw an SVG to FILE')
    parser.add_argument('--rst', metavar='FILE', type=command.path,
                        help='write tables for the documentation to FILE')
    parser.add_argument('--runs', type=int, default=RUNS, metavar='N',
                        help='runs of each contender (default: %(default)s)')
    size = parser.add_mutually_exclusive_group()
    size.add_argument('--quick', action='store_true',
                      help='one small disk, once: about a minute')
    size.add_argument('--full', action='store_true', help='more disks')
    size.add_argument('--ceph', action='store_true',
                      help='raw images into Ceph, by each way')
    parser.add_argument('--mib', type=int, metavar='N',
                        help='of data on each disk, instead of its own')
    parser.add_argument('--scaling', nargs='*', metavar='AXIS',
                        choices=scaling.AXES,
                        help='how the time grows with servers at once, data,'
                        ' virtual size, too (default: all of them)')


def _chosen(args: argparse.Namespace
            ) -> collections.abc.Sequence[disks.Disk]:
    if args.quick:
        return disks.QUICK
    chosen = (disks.CEPH if args.ceph else
              disks.FULL if args.full else disks.DEFAULT)
    return [dataclasses.replace(disk, mib=args.mib or disk.mib)
            for disk in chosen]


def _axes(args: argparse.Namespace) -> collections.abc.Sequence[str]:
    """Return those that --scaling names; without a name, all."""
    return () if args.scaling is None else args.scaling or scaling.AXES


def run(lab: stack.Stack, args: argparse.Namespace) -> int:
    runs = 1 if args.quick else args.runs
    grows_to = args.mib or max(scaling.DATA_MIB)
    bench = Bench(lab, _chosen(args), runs, args.only, _axes(args), grows_to)
    try:
        bench.run()
    finally:
        # After a failure, too: it takes its time.
        _show(bench, args)
    return int(any(row.problem for row in bench.rows))


def _show(bench: Bench, args: argparse.Namespace) -> None:
    """Print the results, and write them to the files that are named."""
    points = bench.scaling.points
    print(table.text(bench.rows, points))
    for name, ratio in figures.ratios(bench.rows).items():
        print(f'{name:28}{"-" if ratio is None else ratio:>14}')
    command.save(args.json, **bench.found())
    if args.plot is not None:
        args.plot.write_text(plot.svg(bench.rows, points))
    if args.rst is not None and bench.machine:
        args.rst.write_text(table.rst(bench.rows, bench.machine, points))

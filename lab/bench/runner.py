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

"""Runs the benchmark: disk by disk, round by round, contender by contender."""

import argparse
import collections.abc
import dataclasses
import functools
import json
import os
import pathlib
import platform
import shutil
import time

from lab.bench import contenders
from lab.bench import disks
from lab.bench import figures
from lab.bench import plot
from lab.bench import scaling
from lab.bench import table
from lab.bench import usage
from lab.observe import measure
from lab.openstack import cloud
from lab.openstack import config
from lab.openstack import process
from lab.openstack import settings
from lab.openstack import stack
from lab.openstack import steps

RUNS = 5
BOOT_TIMEOUT = 180.0
IDLE_SECONDS = 15.0
COPY_TIMEOUT = 600.0
# How Nova makes a root disk in a file of its own, of one format or the other.
FLAT = ('libvirt', 'images_type', 'flat')
DISK_OPTIONS = {
    'raw': (FLAT,),
    'qcow2': (FLAT, ('DEFAULT', 'force_raw_images', 'false'))}
# Of the largest disk: its template, the server's copy and the finished
# image, an image in Glance, and what Nova's own stages, twice.
COPIES = 6


class Bench:
    """One benchmark, and what it found."""

    def __init__(self, lab: stack.Stack,
                 chosen: collections.abc.Sequence[disks.Disk], runs: int,
                 words: collections.abc.Sequence[str],
                 grows_to: int = 0) -> None:
        """Have it ready to run.

        :param words: only what has one of them in its name; all for none
        :param grows_to: the most data, in MiB, for how the time grows; 0 to
            leave that out
        """
        self.lab = lab
        self.api = lab.cloud
        self.folder = lab.settings.root / 'bench'
        self.disks = chosen
        self.runs = runs
        self.words = words
        self.grows_to = grows_to
        self.rows: list[figures.Row] = []
        self.machine: dict[str, object] = {}
        self._subject: contenders.Subject | None = None
        self._spare = ''
        self._compute: config.Compute | None = None
        self.scaling = scaling.Scaling(lab, self.folder, self._boot_copy)

    @property
    def subject(self) -> contenders.Subject:
        assert self._subject is not None
        return self._subject

    def wanted(self, disk: disks.Disk) -> list[str]:
        """The contenders for a disk, in the order in which they run."""
        return [name for name in contenders.CONTENDERS
                if name in disk.contenders and (not self.words or any(
                    word in f'{name} {disk.name}' for word in self.words))]

    def plan(self) -> steps.Plan:
        plan: steps.Plan = [steps.Step('the machine', self._describe)]
        for disk in self.disks:
            if self.wanted(disk):
                plan += self._disk_plan(disk)
        return plan + self._scaling_plan() if self.grows_to else plan

    def _scaling_plan(self) -> steps.Plan:
        step = steps.Step
        return [
            step('servers at once',
                 lambda: self.scaling.servers(self.grows_to)),
            step('their servers, removed', self._clean),
            step('more data', lambda: self.scaling.data(self.grows_to)),
            step('its server, removed', self._clean),
            step('more of nothing', self.scaling.virtual)]

    def _disk_plan(self, disk: disks.Disk) -> steps.Plan:
        step = steps.Step
        plan: steps.Plan = [
            step(f'{disk.name}: a server with it',
                 functools.partial(self._boot, disk)),
            step(f'{disk.name}: idle', self._idle)]
        order = self.wanted(disk)
        for number in range(1, min(self.runs, disk.runs) + 1):
            plan += [step(f'{disk.name}: {name} {number}',
                          functools.partial(self._take, name, number))
                     for name in order]
            # Back and forth: nova-compute starts less often, and what drifts
            # does so for everyone.
            order = order[::-1]
        plan.append(step(f'{disk.name}: removed', self._clean))
        return plan

    def run(self) -> None:
        """Do it; nova-compute has its usual options in the end."""
        self._check_space()
        self._clean()
        try:
            steps.run(self.plan())
        finally:
            self._clean()
            self.lab.compute(config.Compute())

    def _check_space(self) -> None:
        settings.make_directory(self.folder)
        free = shutil.disk_usage(self.folder).free
        needed = COPIES * max(self.grows_to * disks.MI,
                              *(disk.bytes for disk in self.disks))
        if free < needed:
            raise settings.LabError(
                f'{self.folder} has {free >> 30} GiB left, and this needs'
                f' {needed >> 30}')

    def _clean(self) -> None:
        """Remove what a disk would fill up with."""
        for one in cloud.named(self.api.servers(), contenders.NAME):
            self.api.delete_server(one['id'])
        for image in contenders.images(self.api):
            self.api.delete_image(image['id'])
        shutil.rmtree(self.folder, ignore_errors=True)
        settings.make_directory(self.folder)

    def _describe(self) -> None:
        self.machine = machine(self.lab)

    # Steps

    def _boot(self, disk: disks.Disk) -> None:
        """A server whose disk is replaced by the one that is wanted."""
        template = disks.build(disk, self.lab.settings, self.folder,
                               self.lab.guest.small_disk)
        server = self._boot_copy(1, disk, template)
        self._compute = None            # another one, by that
        self._spare = self._paused(disk.disk_format)
        self._subject = contenders.Subject(
            self.lab, disk.name, disk.disk_format, server, template,
            self.folder)

    def _boot_copy(self, number: int, disk: disks.Disk,
                   template: pathlib.Path) -> measure.Server:
        """A server that writes, with a copy of a file for its disk."""
        # As for the first contender, so that it need not start again.
        plain = contenders.CONTENDERS['plain'].compute or config.Compute()
        self.lab.compute(with_disks(plain, disk.disk_format))
        server = self._server(disk.disk_format, number)
        replace_disk(server, template)
        return server

    def _server(self, disk_format: str, number: int) -> measure.Server:
        """A small server, on a disk in a file of its own.

        It need not have booted: its disk is replaced anyway.
        """
        # Nova caches an image as the options said when it came first.
        image = self.lab.small_image(
            f'{stack.IMAGE}-bench-{disk_format}-{self.lab.guest.version()}')
        made = self.api.new_server(f'{contenders.NAME}-{number}', image,
                                   stack.SMALL_FLAVOR)
        self.api.wait_server(made)
        return measure.server(self.api, made)

    def _paused(self, disk_format: str) -> str:
        """A server that takes no CPU; its id."""
        spare = self._server(disk_format, 0)
        self.api.action(spare.id, 'pause')
        self.api.wait_server(spare.id, 'PAUSED')
        return spare.id

    def _have(self, choice: config.Compute) -> None:
        """Have a nova-compute that has taken a snapshot already.

        Its first one takes a second longer, whoever's driver it has: modules
        are imported, tokens and schemas are fetched.
        """
        if choice == self._compute:
            return
        self.lab.compute(choice)
        image = self.api.action(self._spare, 'createImage',
                                name=f'{contenders.NAME}-first')
        self.api.delete_image(self.api.wait_image(image['image_id'])['id'])
        self._compute = choice

    def _idle(self) -> str:
        """What the guest does when nothing is done to it."""
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
        """One run. One that fails is a row, too, and the others go on."""
        contender = contenders.CONTENDERS[name]
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

    # What it found

    def found(self) -> dict[str, object]:
        return {'machine': self.machine, 'ratios': figures.ratios(self.rows),
                'medians': figures.medians(self.rows),
                'scaling': [dataclasses.asdict(point)
                            for point in self.scaling.points],
                'rows': [row.as_json() for row in self.rows]}


def with_disks(choice: config.Compute, disk_format: str) -> config.Compute:
    """A nova-compute that makes root disks in files of this format, too."""
    return dataclasses.replace(
        choice, options=choice.options + DISK_OPTIONS[disk_format])


def replace_disk(server: measure.Server, source: pathlib.Path) -> None:
    """Start a server again with a copy of a file for its disk.

    Quickly: Nova looks at a domain that stopped only seconds later.
    """
    new = server.folder / 'disk.new'
    process.output('cp', '--sparse=always', str(source), str(new),
                   timeout=COPY_TIMEOUT)
    server.domain.stop()
    os.replace(new, server.disk)
    # Of its first life nothing more comes.
    console = measure.Console(server.console, from_end=True)
    console.lines()
    server.domain.start()
    console.wait(measure.BEAT, BOOT_TIMEOUT)


def machine(lab: stack.Stack) -> dict[str, object]:
    """What the figures were taken on."""
    memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
    file_system = process.output(
        'df', '--output=fstype', str(lab.settings.root)).split()[-1]
    versions = json.loads(process.output(
        lab.settings.bin('pip'), 'list', '--format=json',
        '--disable-pip-version-check'))
    known = {one['name'].lower(): one['version'] for one in versions}
    return {
        'cpu': cpu_model(), 'cores': os.cpu_count(),
        'memory_gib': round(memory / (1 << 30)),
        'kernel': platform.release(), 'system': _system(),
        'virt_type': lab.guest.virt_type(lab.settings),
        'file_system': file_system, 'python': platform.python_version(),
        'qemu': process.output('qemu-img', '--version').split()[2],
        'libvirt': process.output('libvirtd', '--version').split()[-1],
        'nova': known.get('nova'), 'glance': known.get('glance'),
        # Of others: these figures are as noisy as the machine is busy.
        'load_before': os.getloadavg()[0]}


def cpu_model() -> str:
    text = pathlib.Path('/proc/cpuinfo').read_text()
    names = [line.partition(':')[2].strip() for line in text.splitlines()
             if line.startswith('model name')]
    return names[0] if names else platform.machine()


def _system() -> str:
    lines = pathlib.Path('/etc/os-release').read_text().splitlines()
    known = dict(line.split('=', 1) for line in lines if '=' in line)
    return known.get('PRETTY_NAME', '').strip('"')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `lab/run bench`."""
    for name, what in (('json', 'the figures'), ('plot', 'an SVG'),
                       ('rst', 'the tables, for the documentation')):
        parser.add_argument(f'--{name}', metavar='FILE', type=pathlib.Path,
                            help=f'write {what} there')
    parser.add_argument('--runs', type=int, default=RUNS, metavar='N',
                        help='of each contender (%(default)s)')
    parser.add_argument('--only', metavar='WORDS', action='append',
                        default=[], help='what has this in the names of'
                        ' contender and disk, as in "zstd tree"')
    size = parser.add_mutually_exclusive_group()
    size.add_argument('--quick', action='store_true',
                      help='one small disk, once: about a minute')
    size.add_argument('--full', action='store_true', help='more disks')
    parser.add_argument('--mib', type=int, metavar='N',
                        help='of data on each disk, instead of its own')
    parser.add_argument('--scaling', action='store_true',
                        help='servers at once, data, virtual size, too')


def _chosen(
        arguments: argparse.Namespace) -> collections.abc.Sequence[disks.Disk]:
    if arguments.quick:
        return disks.QUICK
    chosen = disks.FULL if arguments.full else disks.DEFAULT
    return [dataclasses.replace(disk, mib=arguments.mib or disk.mib)
            for disk in chosen]


def run(lab: stack.Stack, arguments: argparse.Namespace,
        place: collections.abc.Callable[[pathlib.Path | None],
                                        pathlib.Path | None]) -> int:
    """Run it on a lab that is up; returns the exit status.

    :param place: gives the path of a file that was named by the caller
    """
    runs = 1 if arguments.quick else arguments.runs
    grows_to = arguments.mib or max(scaling.DATA_MIB)
    bench = Bench(lab, _chosen(arguments), runs, arguments.only,
                  grows_to if arguments.scaling else 0)
    try:
        bench.run()
    finally:
        # What there is, also after a failure: it has taken long.
        show(bench, place(arguments.json), place(arguments.plot),
             place(arguments.rst))
    return int(any(row.problem for row in bench.rows))


def show(bench: Bench, json_file: pathlib.Path | None,
         plot_file: pathlib.Path | None,
         rst_file: pathlib.Path | None) -> None:
    """Print what was found, and write it to the files that are named."""
    points = bench.scaling.points
    print(table.text(bench.rows, points))
    for name, ratio in figures.ratios(bench.rows).items():
        print(f'{name:28}{"-" if ratio is None else ratio:>14}')
    steps.save(json_file, **bench.found())
    if plot_file is not None:
        plot_file.write_text(plot.svg(bench.rows, points))
    if rst_file is not None and bench.machine:
        rst_file.write_text(table.rst(bench.rows, bench.machine, points))

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

"""Take snapshots of a server that writes, by our driver and by Nova's own."""

import argparse
import collections.abc
import dataclasses
import os
import platform
import statistics

from lab.bench import writes
from lab import command
from lab.observe import measure
from lab.openstack import cloud
from lab.openstack import config
from lab.openstack import guest
from lab.openstack import secondhost
from lab.openstack import settings
from lab.openstack import stack
from lab.openstack import steps

NAME = 'snapdriver-demo'
RUNS = 3
IDLE_SECONDS = 10.0
# An emulated guest takes its time to hash a gigabyte.
RESTORE_TIMEOUT = 300.0

Runs = list[measure.Run]


class Demo:
    """The steps of the demo, and their results."""

    #: Once it is booted.
    server: measure.Server

    def __init__(self, lab: stack.Stack, hosts: int = 1) -> None:
        self.lab = lab
        self.hosts = hosts
        self.api = lab.cloud
        self.folder = lab.settings.root / 'demo'
        self.file = self.folder / 'snapshot.qcow2'
        self.ours: Runs = []
        self.stock: Runs = []
        self.puts: Runs = []
        self.idle_gap = 0.0
        self.restored = ''
        #: What a server on the second host says, and one of its snapshot.
        self.moved: list[str] = []

    def plan(self) -> steps.Plan:
        step = steps.Step
        plan: steps.Plan = [
            step("the last demo's images", self._clean),
            step('a server that writes all the time', self._boot),
            step('its idle gap', self._idle)]
        for number in range(1, RUNS + 1):
            plan += [
                step(f'our snapshot {number}', self._ours),
                step(f'curl {number}', self._put)]
        plan += [
            step('a second server from the image', self._second)]
        if self.hosts > 1:
            plan += [
                step('a second compute host',
                     lambda: self.lab.second_up(config.Compute())),
                step('a server there, and one here from its snapshot',
                     self._there)]
        plan += [
            step("nova-compute with Nova's own driver",
                 lambda: self.lab.compute(config.Compute('stock')))]
        return plan + [step(f'stock snapshot {number}', self._stock)
                       for number in range(1, RUNS + 1)]

    def run(self) -> None:
        """Do the steps; restore nova-compute's driver."""
        try:
            steps.run(self.plan())
        finally:
            self.lab.compute(config.Compute())
            self.lab.second.remove()

    def _clean(self) -> None:
        settings.make_directory(self.folder)
        self.api.clean(f'{NAME}-', f'{NAME}-')

    def _boot(self) -> str:
        """Use the last demo's server if it is active, or boot one."""
        image = self.lab.guest_image()
        fits = [found for found in cloud.named(self.api.servers(), NAME)
                if (found['status'], found['image']['id']) == ('ACTIVE',
                                                               image)]
        for found in cloud.named(self.api.servers(), NAME):
            if found not in fits[:1]:
                self.api.delete_server(found['id'])
        if fits:
            self.server = measure.server(self.api, fits[0]['id'])
        else:
            self.server = boot(self.lab, NAME, image)
        self.server.wait_beat()
        self.server.domain.wait_agent()
        return 'runs' if fits else ''

    def _idle(self) -> str:
        self.idle_gap = max(measure.idle_gaps(
            self.server, self.lab.settings.snapshots, IDLE_SECONDS))
        return f'({self.idle_gap:.2f} s)'

    def _snapshot(self, name: str, runs: Runs) -> str:
        number = len(runs) + 1
        runs.append(measure.snapshot(
            self.api, self.server, f'{NAME}-{name}-{number}'))
        return f'({runs[-1].seconds:.1f} s until the image was active)'

    def _ours(self) -> str:
        return self._snapshot('ours', self.ours)

    def _stock(self) -> str:
        return self._snapshot('stock', self.stock)

    def _put(self) -> str:
        if not self.puts:
            self.api.download(self.ours[0].image_id, self.file)
        self.puts.append(measure.put(
            self.api, self.server, f'{NAME}-curl', self.file))
        return f'({self.puts[-1].seconds:.1f} s)'

    def _second(self) -> str:
        """Boot a server from the newest image; it checks its own disk.

        It stays for a look at it; paused, as it would disturb otherwise.
        """
        second = boot(self.lab, f'{NAME}-second', self.ours[-1].image_id)
        self.restored = restored(second)
        self.api.change(second.id, 'pause', 'PAUSED')
        return f'({self.restored})'

    def _there(self) -> str:
        image = self.ours[-1].image_id
        for host in (secondhost.HOST, settings.COMPUTE_HOST):
            server = measure.boot(self.api, f'{NAME}-moved', image,
                                  stack.FLAVOR, host=host)
            self.moved.append(restored(server))
            if host == secondhost.HOST:
                image = self.api.create_image(server.id, f'{NAME}-moved')
                self.api.wait_image(image)
                self.api.wait_server(server.id)
            self.api.delete_server(server.id)
        return f'({self.moved[-1]})'

    # Results

    @property
    def second_server_ok(self) -> bool:
        return whole(self.restored)

    @property
    def ok(self) -> bool:
        return all(map(whole, (self.restored, *self.moved))) and all(
            run.status == 'active' for run in self.ours + self.stock)

    def figures(self) -> dict[str, object]:
        """Return the medians, and all runs."""
        last = self.ours[-1]
        return {
            'image_id': last.image_id, 'status': last.status,
            'path': last.path, 'consistency': last.consistency,
            'put_seconds': _median(self.puts, 'seconds'),
            'freeze_seconds': _median(self.ours, 'freeze_seconds'),
            **{f'{prefix}{field}': _median(runs, field)
               for prefix, runs in (('', self.ours), ('stock_', self.stock))
               for field in ('seconds', 'staging_peak_bytes',
                             'write_gap_seconds')},
            'second_server_ok': self.second_server_ok,
            'idle_write_gap_seconds': self.idle_gap,
            'persistent': all(run.persistent for run in self.ours),
            'stock_persistent': all(run.persistent for run in self.stock),
            'restored': self.restored, 'machine': self._machine(),
            'runs': {name: [dataclasses.asdict(run) for run in runs]
                     for name, runs in (('ours', self.ours),
                                        ('stock', self.stock),
                                        ('put', self.puts))}}

    def _machine(self) -> dict[str, object]:
        return {'cores': os.cpu_count(), 'kernel': platform.release(),
                'virt_type': self.lab.guest.virt_type(self.lab.settings)}

    def table(self) -> str:
        """Format the three ways side by side."""
        rows = [('', 'snapdriver', "Nova's own", 'curl -T')]
        rows += [self._row(*line) for line in (
            ('time, s', 'seconds', 1, '.1f'),
            ('peak local staging, MiB', 'staging_peak_bytes', guest.MI,
             '.1f'),
            ('freeze window, s', 'freeze_seconds', 1, '.3f'),
            ('longest gap between two guest writes, s',
             'write_gap_seconds', 1, '.2f'),
            ('image, MiB', 'size', guest.MI, '.0f'))]
        stays = ['yes' if all(run.persistent for run in runs) else 'no'
                 for runs in (self.ours, self.stock)]
        rows.append(('the domain stays persistent', stays[0], stays[1], ''))
        return '\n'.join(f'{name:42}{a:>12}{b:>12}{c:>12}'.rstrip()
                         for name, a, b, c in rows)

    def _row(self, title: str, field: str, unit: int,
             form: str) -> tuple[str, str, str, str]:
        def cell(runs: Runs) -> str:
            value = _median(runs, field)
            return '-' if value is None else format(value / unit, form)

        # curl has its file already.
        curl = '' if 'staging' in field else cell(self.puts)
        return title, cell(self.ours), cell(self.stock), curl

    def summary(self) -> str:
        last = self.ours[-1]
        verdict = 'whole' if self.second_server_ok else 'NOT WHOLE'
        return (f'\nimage {last.image_id}: {last.status}, path {last.path},'
                f' consistency {last.consistency}\n'
                f'second server: {verdict} ({self.restored})\n'
                f'idle gap between two guest writes: {self.idle_gap:.2f} s;'
                f' medians of {RUNS}:\n\n{self.table()}\n\n'
                f'{self._picture()}\n')

    def _picture(self) -> str:
        """Draw the guest's writes during a typical run of each driver."""
        return writes.picture({title: typical(runs).writes for title, runs in (
            ('snapdriver', self.ours), ("Nova's own", self.stock))})


def typical(runs: Runs) -> measure.Run:
    """Return the run in the middle, by its longest gap between writes."""
    return sorted(runs, key=lambda run: run.write_gap_seconds)[len(runs) // 2]


def _median(runs: collections.abc.Iterable[measure.Run],
            field: str) -> float | None:
    """Return the median of a field; None if a run does not have it."""
    values = [getattr(run, field) for run in runs]
    if not values or None in values:
        return None
    return float(round(statistics.median(values), 3))


def boot(lab: stack.Stack, name: str, image_id: str) -> measure.Server:
    """Create a server of the guest's size, and wait until it is active."""
    return measure.boot(lab.cloud, name, image_id, stack.FLAVOR)


def restored(server: measure.Server) -> str:
    """Return what a guest reports once it has checked its disk."""
    console = measure.Console(server.console)
    return str(console.wait(measure.RESTORED, RESTORE_TIMEOUT)[1])


def whole(said: str) -> bool:
    """Return whether a guest has found its disk whole and of one instant."""
    found = dict(word.split('=', 1) for word in said.split())
    checks = ('journal', 'payload', 'fs')
    if any(found.get(name) != 'ok' for name in checks):
        return False
    return 0 <= int(found['a']) - int(found['b']) <= 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    command.add_json(parser)
    parser.add_argument('--hosts', type=int, choices=(1, 2), default=1,
                        help='with 2, also boot the image on a second compute'
                             ' host, and a snapshot of that on the first')


def run(lab: stack.Stack, args: argparse.Namespace) -> int:
    demo = Demo(lab, args.hosts)
    demo.run()
    print(demo.summary())
    command.save(args.json, **demo.figures())
    return 0 if demo.ok else 1

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

"""Random snapshots, faults and server actions, for as long as one likes.

In the end nova-compute must not have grown: its threads, file descriptors,
children and memory are counted after a warm-up and at the end.
"""

import argparse
import dataclasses
import pathlib
import time

from lab.faults import cases
from lab.faults import harness
from lab.faults import mishaps
from lab.faults import outside
from lab.openstack import config
from lab.openstack import services
from lab.openstack import settings
from lab.openstack import stack
from lab.openstack import steps

# oslo.messaging's pool has a new thread for each request until it is full. So
# that it is soon, and what grows later has another reason.
POOL = ('DEFAULT', 'executor_thread_pool_size', '8')
# What may come and go: pools of threads and connections, Python's memory.
ALLOWED = {'threads': 16, 'descriptors': 8, 'children': 0,
           'memory_bytes': 48 << 20}
# In the end, until what is kept for a while is given back.
SETTLE_SECONDS = 10.0
# As a rule everything is well.
PLAIN = 4
Case = cases.Case


def events() -> list[Case]:
    """What can happen; the plain snapshot most often.

    nova-compute and the server stay: both are looked at in the end.
    """
    faults = [one for one in outside.listed('ours')
              if not one.options and one.during is not mishaps.kill_compute
              and 'RabbitMQ' not in one.name and 'MariaDB' not in one.name]
    plain = Case('a snapshot', 'active', fault=None)
    return faults + [plain] * PLAIN + [
        Case('a snapshot of a paused server', 'active', fault=None,
             before=_pause, after=_unpause),
        Case('a snapshot of a suspended server', 'active', fault=None,
             before=_suspend, after=_resume),
        Case('a snapshot of a stopped server', 'active', 'booted', None,
             before=_stop, after=_start)]


def _act(scene: cases.Scene, action: str, status: str) -> None:
    api = scene.bench.api
    api.action(scene.one.server.id, action)
    api.wait_server(scene.one.server.id, status)


def _pause(scene: cases.Scene) -> None:
    _act(scene, 'pause', 'PAUSED')


def _unpause(scene: cases.Scene) -> None:
    _act(scene, 'unpause', 'ACTIVE')


def _suspend(scene: cases.Scene) -> None:
    _act(scene, 'suspend', 'SUSPENDED')


def _resume(scene: cases.Scene) -> None:
    _act(scene, 'resume', 'ACTIVE')


def _stop(scene: cases.Scene) -> None:
    _act(scene, 'os-stop', 'SHUTOFF')


def _start(scene: cases.Scene) -> None:
    _act(scene, 'os-start', 'ACTIVE')


@dataclasses.dataclass(frozen=True)
class Sample:
    """What nova-compute has."""

    pid: int
    threads: int
    descriptors: int
    children: int
    memory_bytes: int


def sample(conf: settings.Settings) -> Sample:
    """:raises LabError: it does not run"""
    record = services.NovaCompute(conf, config.Compute()).record()
    if record is None:
        raise settings.LabError('nova-compute does not run',
                                conf.log('nova-compute'))
    folder = pathlib.Path(f'/proc/{record.pid}')
    status = dict(line.split(':', 1) for line in
                  (folder / 'status').read_text().splitlines())
    children = [child for task in (folder / 'task').iterdir()
                for child in (task / 'children').read_text().split()]
    return Sample(record.pid, int(status['Threads']),
                  len(list((folder / 'fd').iterdir())), len(children),
                  int(status['VmRSS'].split()[0]) << 10)


def leaks(before: Sample, after: Sample) -> list[str]:
    """What has grown more than it may, in words."""
    found = [] if before.pid == after.pid else [
        'nova-compute is another one']
    for name, allowed in ALLOWED.items():
        one, other = getattr(before, name), getattr(after, name)
        if other - one > allowed:
            found.append(f'{name}: {one}, and {other} in the end')
    return found


class Soak:
    """Lets things happen until the time is over."""

    def __init__(self, bench: harness.Harness, minutes: float) -> None:
        self.bench = bench
        self._seconds = minutes * 60
        self._random = bench.random('soak')
        self.before: Sample | None = None
        self.after: Sample | None = None
        self.leaks: list[str] = []

    def run(self) -> None:
        bench = self.bench
        known = events()
        trials = outside.Outside(bench)
        bench.use('file', POOL)
        bench.boot()
        # Everything that is made at its first use is there then.
        for case in known[-1:-4:-1]:
            trials.trial(case, len(bench.rows))
        self.before = sample(bench.conf)
        end = time.monotonic() + self._seconds
        while time.monotonic() < end:
            bench.boot()
            self._random.shuffle(bench.servers)
            trials.trial(self._random.choice(known), len(bench.rows))
        time.sleep(SETTLE_SECONDS)
        self.after = sample(bench.conf)
        self.leaks = leaks(self.before, self.after) + bench.left()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--json', metavar='FILE', type=pathlib.Path,
                        help='write the rows there, too')
    parser.add_argument('--minutes', metavar='N', type=float, default=20.0)
    parser.add_argument('--seed', metavar='S', type=int, default=1,
                        help='decides what happens when, to whom')


def run(lab: stack.Stack, target: pathlib.Path | None, minutes: float,
        seed: int) -> int:
    """Soak a lab that is up; returns the exit status."""
    print(harness.HEADINGS)
    with harness.Harness(lab, 'ours', seed) as bench:
        soak = Soak(bench, minutes)
        soak.run()
    rows = bench.rows
    failed = [row for row in rows if not row.ok]
    steps.save(target, rows=rows, minutes=minutes, seed=seed,
               leaks=soak.leaks, before=soak.before, after=soak.after)
    print(f'before: {soak.before}\nafter:  {soak.after}')
    for leak in soak.leaks:
        print(f'leak: {leak}')
    print(f'{len(rows) - len(failed)} of {len(rows)} rows are ok,'
          f' {len(soak.leaks)} leaks')
    return 1 if failed or soak.leaks else 0

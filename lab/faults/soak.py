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

"""Take random snapshots among random faults, and look for what grows.

In the end nova-compute must not have grown: its threads, file descriptors,
children and memory are counted after a warm-up and at the end.
"""

import argparse
import dataclasses
import itertools
import time

from lab import command
from lab.faults import cases
from lab.faults import harness
from lab.faults import hosts
from lab.faults import mishaps
from lab.faults import outside
from lab.faults import ownership
from lab.observe import processes
from lab.openstack import settings
from lab.openstack import stack

# oslo.messaging's pool starts a thread for each request until it is full: a
# small one is full after the warm-up, and what grows later is a leak.
POOL = ('DEFAULT', 'executor_thread_pool_size', '8')
# Growth that is fine: thread and connection pools, Python's memory.
ALLOWED = {'threads': 16, 'descriptors': 8, 'children': 0,
           'memory_bytes': 48 << 20}
# Before the last count, for caches to expire.
SETTLE_SECONDS = 10.0
WARM_UP = 3
# So many plain snapshots for one of each fault.
PLAIN = 4
Case = cases.Case


def events() -> list[Case]:
    """Return what may happen, the plain snapshot most often.

    nova-compute and the server stay: both are looked at in the end.
    """
    faults = [one for one in outside.listed('ours')
              if not one.options and one.during is not mishaps.kill_compute
              and 'RabbitMQ' not in one.name and 'MariaDB' not in one.name]
    plain = Case('a snapshot', 'active', fault=None)
    return faults + [plain] * PLAIN + [
        Case('a snapshot of a paused server', 'active', fault=None,
             before=_act('pause', 'PAUSED'),
             after=_act('unpause', 'ACTIVE')),
        Case('a snapshot of a suspended server', 'active', fault=None,
             before=_act('suspend', 'SUSPENDED'),
             after=_act('resume', 'ACTIVE')),
        Case('a snapshot of a stopped server', 'active', 'booted', None,
             before=_act('os-stop', 'SHUTOFF'),
             after=_act('os-start', 'ACTIVE'))]


def _act(action: str, status: str) -> cases.Action:
    return lambda scene: scene.lab.cloud.change(scene.server.id, action,
                                                status)


@dataclasses.dataclass(frozen=True)
class Sample:
    """What nova-compute has."""

    pid: int
    threads: int
    descriptors: int
    children: int
    memory_bytes: int


def sample(conf: settings.Settings) -> Sample:
    """Count what nova-compute has.

    :raises LabError: it does not run
    """
    one = processes.compute(conf)
    return Sample(one.pid, one.num_threads(), one.num_fds(),
                  len(one.children()), one.memory_info().rss)


def leaks(before: Sample, after: Sample) -> list[str]:
    """Return what has grown more than it may, in words."""
    found = [] if before.pid == after.pid else ['nova-compute has restarted']
    for name, allowed in ALLOWED.items():
        one, other = getattr(before, name), getattr(after, name)
        if other - one > allowed:
            found.append(f'{name}: {one}, and {other} in the end')
    return found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    command.add_json(parser)
    command.add_only(parser)
    command.add_seed(parser)
    parser.add_argument('--minutes', metavar='N', type=float, default=20.0,
                        help='how long (default: %(default)s)')
    parser.add_argument('--hosts', type=int, choices=(1, 2), default=1,
                        help='with 2, servers also move between two compute'
                             ' hosts')


def run(lab: stack.Stack, args: argparse.Namespace) -> int:
    print(harness.HEADINGS)
    with harness.Harness(lab, 'ours', args.seed, args.json) as found:
        before, after = _soak(found, args)
        grown = leaks(before, after) + found.left()
    found.table.save(minutes=args.minutes, seed=args.seed, leaks=grown,
                     before=before, after=after)
    print(f'before: {before}\nafter:  {after}')
    for leak in grown:
        print(f'leak: {leak}')
    return 1 if found.table.status() or grown else 0


def _soak(found: harness.Harness,
          args: argparse.Namespace) -> tuple[Sample, Sample]:
    """Let things happen until the time is over.

    :returns: what nova-compute has after a warm-up, and in the end
    """
    known = command.chosen(events(), args.only)
    moves = command.chosen(hosts.listed(), args.only) * (args.hosts - 1)
    moments = found.random('soak')
    trials, stories = outside.Outside(found), ownership.Stories(found)
    found.use('file', POOL, *itertools.chain.from_iterable(
        one.options for one in moves))
    found.boot()
    # What is created at its first use is there then.
    for case in known[-1:-1 - WARM_UP:-1]:
        trials.trial(case, len(found.rows))
    before = sample(found.conf)
    end = time.monotonic() + args.minutes * 60
    while time.monotonic() < end:
        found.boot()
        moments.shuffle(found.servers)
        chosen = moments.choice([*known, *moves])
        taker = stories if chosen in moves else trials
        taker.trial(chosen, len(found.rows))
    time.sleep(SETTLE_SECONDS)
    return before, sample(found.conf)

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


"""nova-compute killed at each named point of each path.

Several snapshots at once are stopped at a point each; then the process is
killed, which to them is as if each had been killed there, and started again.
"""

import dataclasses
import itertools
import time

from lab.faults import harness
from lab.openstack import config
from lab.openstack import process
from lab.openstack import services
from lab.openstack import settings
from nova_snapdriver import faultpoint

Options = tuple[tuple[str, str, str], ...]

OPTIONS: dict[str, Options] = {
    'mirror': (('snapdriver', 'live_method', 'mirror'),),
    'suspend': (('snapdriver', 'live_method', 'cold'),),
}
STOPPED = frozenset(('cold',))


@dataclasses.dataclass(frozen=True)
class Kill:
    """A row to be."""

    path: str
    point: str

    @property
    def name(self) -> str:
        return f'kill {self.path} {self.point}'


def cases() -> list[Kill]:
    """All rows, by path."""
    return [Kill(path, point) for path, points in faultpoint.PATHS.items()
            for point in points]


class Kills:
    """Kills it, and sees what becomes of the servers."""

    def __init__(self, bench: harness.Harness) -> None:
        self.bench = bench

    def run(self, wanted: list[Kill]) -> None:
        for path, group in itertools.groupby(wanted, lambda one: one.path):
            self._path(path, list(group))

    def _path(self, path: str, wanted: list[Kill]) -> None:
        bench = self.bench
        bench.use('rbd' if path == 'direct' else 'file',
                  *OPTIONS.get(path, ()))
        for batch in _batches(_spread(wanted)):
            bench.boot(len(batch))
            self._stop(path)
            self._batch(path, batch)
        self._start(path)

    def _stop(self, path: str) -> None:
        """Have the servers stopped, where the path is for such."""
        if path not in STOPPED:
            return
        for one in self.bench.servers:
            if one.server.domain.state() == 'running':
                self.bench.api.action(one.server.id, 'os-stop')
                self.bench.api.wait_server(one.server.id, 'SHUTOFF')

    def _start(self, path: str) -> None:
        """The disks of servers that were stopped are whole: they boot."""
        if path not in STOPPED:
            return
        for one in self.bench.servers:
            self.bench.api.action(one.server.id, 'os-start')
        for one in self.bench.servers:
            self.bench.api.wait_server(one.server.id)
            one.begin()

    def _batch(self, path: str, batch: tuple[Kill, ...]) -> None:
        began = time.monotonic()
        rows = {one: self.bench.row(one.name) for one in batch}
        try:
            problems = self._kill(path, rows)
        except (settings.LabError, OSError) as error:
            problems = [str(error)]
        for row in rows.values():
            row.seconds = round((time.monotonic() - began) / len(rows), 1)
            row.problems += problems
            self.bench.finish(row)
        if any(row.problems for row in rows.values()):
            self.bench.repair()

    def _kill(self, path: str, rows: dict[Kill, harness.Row]) -> list[str]:
        bench = self.bench
        state = 'shut off' if path in STOPPED else 'running'
        used = bench.servers[:len(rows)]
        for one in used if state == 'running' else ():
            one.begin()
        points = tuple(one.point for one in rows)
        bench.arm(points, 'hold')
        images = [bench.snapshot(one) for one in used]
        for kill, row in rows.items():
            try:
                process.wait_for(kill.point,
                                 lambda: bench.taken(kill.point),
                                 harness.POINT_TIMEOUT)
            except settings.LabError as error:
                row.problems.append(f'never reached: {error}')
        services.NovaCompute(bench.conf, config.Compute()).kill()
        bench.disarm()
        bench.restart()
        return self._after(used, images, state)

    def _after(self, used: list[harness.Watched], images: list[str],
               state: str) -> list[str]:
        bench = self.bench
        for one in used:
            bench.wait_idle(one)
        problems = bench.left()
        for one, image in zip(used, images):
            problems += bench.guest_problems(one, state)
            bench.api.delete_image(image)
        fresh = [bench.snapshot(one) for one in used]
        for one, image in zip(used, fresh):
            problems += bench.active(one, image)
            problems += bench.guest_problems(one, state)
        return problems + bench.left()


def _batches(wanted: list[Kill]) -> list[tuple[Kill, ...]]:
    size = harness.SERVERS
    return [tuple(wanted[first:first + size])
            for first in range(0, len(wanted), size)]


def _spread(wanted: list[Kill]) -> list[Kill]:
    """Points that are far from each other next to each other.

    Two that hold the same lock would never be reached at the same time.
    """
    step = -(-len(wanted) // harness.SERVERS)
    return [one for offset in range(step) for one in wanted[offset::step]]

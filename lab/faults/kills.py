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

"""nova-compute is killed at each named point of each path.

Several snapshots are held at a point each. Then the process is killed, which
is to each of them as if it had been killed there, and started again.
"""

import dataclasses
import itertools
import time

from lab.faults import harness
from lab.observe import disks
from lab.openstack import config
from lab.openstack import process
from lab.openstack import services
from lab.openstack import settings
from nova_snapdriver import faultpoint

OPTIONS: dict[str, config.Options] = {'mirror': disks.MIRROR,
                                      'suspend': disks.SUSPEND}
# The paths of servers that do not run.
STOPPED = frozenset(('cold', 'rbd'))
# Where disks and images are, if not in files.
PLACES = {'direct': 'rbd', 'rbd': 'file-rbd'}


@dataclasses.dataclass(frozen=True)
class Kill:
    """A row to be."""

    path: str
    point: str

    @property
    def name(self) -> str:
        return f'kill {self.path} {self.point}'


def listed() -> list[Kill]:
    """Return all rows, by path."""
    return [Kill(path, point) for path, points in faultpoint.PATHS.items()
            for point in points]


class Kills:
    """Kills nova-compute, and checks what becomes of the servers."""

    def __init__(self, found: harness.Harness) -> None:
        self.harness = found

    def run(self, wanted: list[Kill]) -> None:
        for path, group in itertools.groupby(wanted, lambda one: one.path):
            self._path(path, list(group))

    def _path(self, path: str, wanted: list[Kill]) -> None:
        options = (disks.written(self.harness.conf) if path == 'rbd'
                   else OPTIONS.get(path, ()))
        self.harness.use(PLACES.get(path, 'file'), *options)
        for batch in _batches(_spread(wanted)):
            self.harness.boot(len(batch))
            if path in STOPPED:
                self._stop()
            self._batch(path, batch)
        if path in STOPPED:
            self._start()

    def _stop(self) -> None:
        for one in self.harness.servers:
            if one.server.domain.state() == 'running':
                self.harness.api.change(one.server.id, 'os-stop', 'SHUTOFF')

    def _start(self) -> None:
        """Boot the servers: their disks are whole."""
        for one in self.harness.servers:
            self.harness.api.action(one.server.id, 'os-start')
        for one in self.harness.servers:
            self.harness.api.wait_server(one.server.id)
            one.begin()

    def _batch(self, path: str, batch: tuple[Kill, ...]) -> None:
        began = time.monotonic()
        rows = {one: self.harness.row(one.name) for one in batch}
        try:
            problems = self._kill(path, rows)
        except (settings.LabError, OSError) as error:
            problems = [str(error)]
        for row in rows.values():
            row.seconds = round((time.monotonic() - began) / len(rows), 1)
            row.problems += problems
            self.harness.table.add(row)
        if any(row.problems for row in rows.values()):
            self.harness.repair()

    def _kill(self, path: str, rows: dict[Kill, harness.Row]) -> list[str]:
        found = self.harness
        state = 'shut off' if path in STOPPED else 'running'
        used = found.servers[:len(rows)]
        for one in used if state == 'running' else ():
            one.begin()
        found.arm(tuple(one.point for one in rows), 'hold')
        images = [found.snapshot(one) for one in used]
        for kill, row in rows.items():
            try:
                process.wait_for(kill.point, lambda: found.taken(kill.point),
                                 harness.POINT_TIMEOUT)
            except settings.LabError as error:
                row.problems.append(f'never reached: {error}')
        services.NovaCompute(found.conf, config.Compute()).kill()
        found.disarm()
        found.restart()
        return self._check(used, images, state)

    def _check(self, used: list[harness.Watched], images: list[str],
               state: str) -> list[str]:
        found = self.harness
        for one in used:
            found.wait_idle(one)
        problems = found.left()
        for one, image in zip(used, images):
            problems += found.guest_problems(one, state)
            found.api.delete_image(image)
        fresh = [found.snapshot(one) for one in used]
        for one, image in zip(used, fresh):
            problems += found.next_fails(one, image)
            problems += found.guest_problems(one, state)
        return problems + found.left()


def _batches(wanted: list[Kill]) -> list[tuple[Kill, ...]]:
    size = harness.SERVERS
    return [tuple(wanted[first:first + size])
            for first in range(0, len(wanted), size)]


def _spread(wanted: list[Kill]) -> list[Kill]:
    """Put points next to each other that are far apart.

    Two points under the same lock cannot be held at the same time.
    """
    step = -(-len(wanted) // harness.SERVERS)
    return [one for offset in range(step) for one in wanted[offset::step]]

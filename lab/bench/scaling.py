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

"""Measure how the time grows: with servers, with data, with empty disk."""

import collections.abc
import dataclasses
import os
import pathlib
import statistics
import time

from lab.bench import contenders
from lab.bench import disks
from lab.bench import usage
from lab.observe import measure
from lab.openstack import config
from lab.openstack import guest
from lab.openstack import stack

SERVERS = (1, 2, 5)
#: Of each of these servers' disks.
SERVERS_MIB = 256
DATA_MIB = (256, 1024, 4096, 8192)
VIRTUAL_GIB = (10, 100, 1024, 8192)
#: Half of it at each end of an empty disk.
VIRTUAL_DATA_MIB = 64
DRIVERS = ('plain', 'stock')
AXES = ('servers', 'data', 'virtual')
GIB = 1 << 30


@dataclasses.dataclass(frozen=True)
class Point:
    """A snapshot, or the median of several servers' at once."""

    #: `servers`, `data` (MiB) or `virtual` (GiB), and the size on this axis.
    axis: str
    size: int
    contender: str
    seconds: float
    memory_peak_bytes: int | None = None


Points = collections.abc.Sequence[Point]
# Boots a server, by its number, with a copy of a file as its disk.
Boot = collections.abc.Callable[[int, disks.Disk, pathlib.Path],
                                measure.Server]


class Scaling:
    """Takes the snapshots; its caller removes the servers."""

    def __init__(self, lab: stack.Stack, folder: pathlib.Path,
                 boot: Boot) -> None:
        self.lab = lab
        self.folder = folder
        self.boot = boot
        self.points: list[Point] = []

    def servers(self, most: int, runs: int) -> str:
        """Take snapshots of 1, 2 and 5 servers at once, which run on.

        The drivers take turns.
        """
        disk = disks.Disk('random', 'qcow2', min(SERVERS_MIB, most), ())
        template = self._build(disk)
        made = [self.boot(number, disk, template)
                for number in range(1, max(SERVERS) + 1)]
        took: dict[tuple[str, int], list[float]] = {
            (name, count): [] for name in DRIVERS for count in SERVERS}
        for name in DRIVERS * runs:
            self._compute(name)
            for count in SERVERS:
                took[name, count].append(self._at_once(made[:count]))
        self.points += [
            Point('servers', count, name, statistics.median(seconds))
            for (name, count), seconds in took.items()]
        return self._said('servers')

    def _build(self, disk: disks.Disk) -> pathlib.Path:
        return disks.build(disk, self.lab.settings, self.folder,
                           self.lab.guest.small_disk)

    def _compute(self, name: str) -> None:
        choice = contenders.CONTENDERS[name].compute
        self.lab.compute(choice or config.Compute())

    def _at_once(self, servers: list[measure.Server]) -> float:
        """Return the seconds until the last image is active."""
        api = self.lab.cloud
        os.sync()
        began = time.monotonic()
        asked = [measure.by_api(api, server, f'{contenders.NAME}-at-once')[0]
                 for server in servers]
        for image in asked:
            api.wait_image(image, contenders.COMMAND_TIMEOUT)
        took = time.monotonic() - began
        for server in servers:
            api.wait_server(server.id)
        for image in asked:
            api.delete_image(image)
        return round(took, 2)

    def data(self, most: int) -> str:
        """Take snapshots of a disk that fills up."""
        sizes = [mib for mib in DATA_MIB if mib <= most] or [most]
        empty = disks.Disk('random', 'raw', 0, ())
        template = self._build(empty)
        os.truncate(template, guest.SMALL_DISK_BYTES + sizes[-1] * guest.MI)
        server = self.boot(1, empty, template)
        before = 0
        for mib in sizes:
            fill(server.disk, before, mib)
            before = mib
            for name in DRIVERS:
                self._compute(name)
                self.points.append(self._snapshot(server, name, mib))
        return self._said('data')

    def _snapshot(self, server: measure.Server, name: str,
                  mib: int) -> Point:
        with usage.Monitor(self.lab.settings, server.domain.name) as used:
            run = measure.snapshot(
                self.lab.cloud, server, f'{contenders.NAME}-data',
                measure.by_api)
        self.lab.cloud.delete_image(run.image_id)
        return Point('data', mib, name, run.seconds, used.memory_peak)

    def virtual(self) -> str:
        """Stream disks that are almost empty, and discard them.

        From qemu-nbd: a server would not change the figures.
        """
        file = self.folder / 'virtual.raw'
        for gib in VIRTUAL_GIB:
            write_ends(file, gib * GIB)
            with contenders.exported(file, 'raw', self.folder) as socket:
                took = usage.timed(
                    self.lab.settings.log('bench'),
                    *contenders.stream(self.lab.settings, socket))
            file.unlink()
            self.points.append(Point('virtual', gib, 'read', took.seconds,
                                     took.memory_peak))
        return self._said('virtual')

    def _said(self, axis: str) -> str:
        return ', '.join(f'{point.contender} {point.size}: {point.seconds} s'
                         for point in self.points if point.axis == axis)


def fill(path: pathlib.Path, before: int, mib: int) -> None:
    """Write random data behind what is there already, up to a size, MiB.

    QEMU has the file open, and sees them as if the guest had written.
    """
    with open(path, 'r+b') as file:
        file.seek(guest.SMALL_DISK_BYTES + before * guest.MI)
        disks.write(file, disks.random_pieces(), (mib - before) * guest.MI)
        os.fsync(file.fileno())


def write_ends(path: pathlib.Path, size: int) -> None:
    """Write a sparse file with random data at both ends."""
    half = VIRTUAL_DATA_MIB // 2 * guest.MI
    with open(path, 'wb') as file:
        file.truncate(size)
        for offset in (0, size - half):
            file.seek(offset)
            disks.write(file, disks.random_pieces(), half)

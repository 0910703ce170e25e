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

"""A guest that writes all the time, and a Glance that takes 20 MB/s."""

import collections.abc
import contextlib
import dataclasses
import functools
import os
import pathlib
import socket
import threading
import time
import types

from lab.bench import demo
from lab.observe import measure
from lab.observe import repeat
from lab.openstack import cloud
from lab.openstack import config
from lab.openstack import domain
from lab.openstack import settings
from lab.openstack import stack
from lab.openstack import steps

NAME = 'snapdriver-pressure'
# Bytes a second that go through to Glance, and so many at a time.
RATE = 20_000_000
STEP = 256 * 1024
IDLE_SECONDS = 30.0
JOB_POLL_SECONDS = 0.5
STORE_SECONDS = 0.5
BOOT_TIMEOUT = 120.0
# Overwrites what is on the disk, beside the small writes that are measured.
OVERWRITE = ('i=0; while :; do dd if=/dev/zero of=/mnt/payload/10 bs=1M'
             ' count=1 seek=$((i % 100)) conv=notrunc,fsync; i=$((i + 1));'
             ' usleep 200000; done')
AHEAD = (('snapdriver', 'read_ahead_limit', '4096'),
         ('snapdriver', 'read_ahead_threshold', '8'))
CASES = {'without': (('snapdriver', 'read_ahead_limit', '0'),),
         'with': AHEAD,
         'with gentle': (*AHEAD, ('snapdriver', 'bandwidth_limit', '100'))}
# The guest's longest gap, seconds, and its 99th percentile by that of an idle
# host.
MAX_GAP_SECONDS = 0.5
MAX_GAP_RATIO = 2.0


class Proxy:
    """A way to a TCP port that takes so many bytes a second of requests."""

    def __init__(self, port: int, rate: int) -> None:
        self._port = port
        self._rate = rate
        self._due = 0.0
        self._turn = threading.Lock()
        self._listening = socket.create_server((settings.ADDRESS, 0))

    @property
    def url(self) -> str:
        return f'http://{settings.ADDRESS}:{self._listening.getsockname()[1]}'

    def __enter__(self) -> 'Proxy':
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None,
                 error: BaseException | None,
                 trace: types.TracebackType | None) -> None:
        self._listening.close()

    def _serve(self) -> None:
        while True:
            try:
                client = self._listening.accept()[0]
            except OSError:
                return
            server = socket.create_connection((settings.ADDRESS, self._port))
            for args in ((client, server, self._wait),
                         (server, client, lambda count: None)):
                threading.Thread(target=_pump, args=args, daemon=True).start()

    def _wait(self, count: int) -> None:
        """Wait until so many bytes more are due, of all connections."""
        with self._turn:
            now = time.monotonic()
            self._due = max(self._due, now) + count / self._rate
            time.sleep(self._due - now)


def _pump(source: socket.socket, target: socket.socket,
          wait: collections.abc.Callable[[int], None]) -> None:
    try:
        while data := source.recv(STEP):
            wait(len(data))
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        source.close()
        target.close()


def store(folder: pathlib.Path) -> None:
    """Have what Glance has stored on the disk, now.

    Elsewhere that is not the disk of the guest. Here it is, and the kernel
    would write it in one piece every half a minute.
    """
    for path in folder.iterdir():
        # It may be gone by now.
        with contextlib.suppress(FileNotFoundError), open(path) as one:
            os.fdatasync(one.fileno())


class JobWatch:
    """Sees when a domain's backup job has ended."""

    def __init__(self, watched: domain.Domain) -> None:
        self._domain = watched
        self._seen = False
        self.ended: float | None = None

    def look(self) -> None:
        """To be called again and again."""
        if self.ended is not None:
            return
        runs = self._domain.has_backup_job()
        if self._seen and not runs:
            self.ended = time.monotonic()
        self._seen = self._seen or runs


@dataclasses.dataclass(frozen=True)
class Row:
    """One snapshot, or the idle guest, in seconds and bytes."""

    name: str
    ok: bool
    p99_gap_seconds: float
    longest_gap_seconds: float
    seconds: float | None = None
    job_seconds: float | None = None
    scratch_peak_bytes: int | None = None
    gaps_ok: bool | None = None


def gaps(beats: list[measure.Beat]) -> tuple[float, float]:
    """The 99th percentile and the longest of the times between writes, s."""
    found = sorted(later.uptime - one.uptime
                   for one, later in zip(beats, beats[1:]))
    return round(found[len(found) * 99 // 100], 3), round(found[-1], 3)


class Pressure:
    """Takes snapshots with reading ahead, and one without."""

    def __init__(self, lab: stack.Stack, proxy: Proxy) -> None:
        self.lab = lab
        self.api = lab.cloud
        self.rows: list[Row] = []
        self._proxy = proxy
        self._server: measure.Server | None = None

    @property
    def server(self) -> measure.Server:
        assert self._server is not None
        return self._server

    def run(self) -> None:
        """Do it; nova-compute has its usual options in the end."""
        step = steps.Step
        plan: steps.Plan = [
            step('what is left of the last run', self._clean),
            step('a server that overwrites', self._boot),
            step('its idle gaps', self._idle)]
        for name, options in CASES.items():
            plan += [
                step(f'nova-compute {name} reading ahead',
                     functools.partial(self._compute, options)),
                step(f'a snapshot {name} reading ahead',
                     functools.partial(self._snapshot, name))]
        try:
            steps.run(plan)
        finally:
            self.lab.compute(config.Compute())
            self._clean()

    def _clean(self) -> None:
        for one in cloud.named(self.api.servers(), NAME):
            self.api.delete_server(one['id'])
        for image in cloud.named(self.api.images(), f'{NAME}-'):
            self.api.delete_image(image['id'])

    def _compute(self, options: tuple[tuple[str, str, str], ...]) -> str:
        api = ('glance', 'api_servers', self._proxy.url)
        return self.lab.compute(config.Compute(options=(*options, api)))

    def _boot(self) -> None:
        self._server = demo.boot(self.lab, NAME, self.lab.guest_image())
        measure.Console(self.server.console).wait(measure.BEAT, BOOT_TIMEOUT)
        self.server.domain.agent('guest-exec', path='/bin/sh',
                                 arg=['-c', OVERWRITE])

    def _idle(self) -> str:
        with measure.Observer(self.server, self.lab.settings.snapshots) as s:
            time.sleep(IDLE_SECONDS)
        self.rows.append(Row('idle', True, *gaps(s.beats)))
        return line(self.rows[-1])

    def _snapshot(self, name: str) -> str:
        began = time.monotonic()
        job = JobWatch(self.server.domain)
        with (measure.Observer(self.server, self.lab.settings.snapshots) as s,
              repeat.repeated(job.look, JOB_POLL_SECONDS)):
            image = self.api.action(self.server.id, 'createImage',
                                    name=f'{NAME}-{name}')['image_id']
            status = self.api.wait_image(
                image, measure.SNAPSHOT_TIMEOUT)['status']
            seconds = time.monotonic() - began
            self.api.wait_server(self.server.id)
        p99, longest = gaps(s.beats)
        took = round((job.ended or time.monotonic()) - began, 1)
        early = took < seconds / 2
        self.rows.append(Row(
            name, status == 'active' and early == (name != 'without'), p99,
            longest, round(seconds, 1), took, s.staging_peak,
            p99 <= MAX_GAP_RATIO * self.rows[0].p99_gap_seconds and
            longest <= MAX_GAP_SECONDS))
        self.api.delete_image(image)
        return line(self.rows[-1])


def line(row: Row) -> str:
    text = (f'(gaps: p99 {row.p99_gap_seconds:.2f} s, longest'
            f' {row.longest_gap_seconds:.2f} s')
    if row.seconds is not None and row.scratch_peak_bytes is not None:
        text += (f'; job {row.job_seconds:.1f} of {row.seconds:.1f} s, scratch'
                 f' {row.scratch_peak_bytes / (1 << 20):.0f} MiB')
    return text + ')'


def run(lab: stack.Stack, target: pathlib.Path | None) -> int:
    """Run it on a lab that is up; returns the exit status.

    A row is ok if its image is active and the job ended when it should have;
    `gaps_ok` says whether the guest felt as little as it should.
    """
    with (Proxy(lab.settings.ports.glance, RATE) as proxy,
          repeat.repeated(functools.partial(
              store, lab.settings.root / 'glance' / 'images'),
              STORE_SECONDS)):
        pressure = Pressure(lab, proxy)
        pressure.run()
    steps.save(target, rows=pressure.rows)
    return 0 if all(row.ok for row in pressure.rows) else 1

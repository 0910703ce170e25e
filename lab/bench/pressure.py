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

"""Snapshot a guest that overwrites much, with a slow Glance."""

import argparse
import contextlib
import dataclasses
import functools
import os
import pathlib
import sys
import time

from lab.bench import figures
from lab import command
from lab.observe import measure
from lab.observe import repeat
from lab.openstack import config
from lab.openstack import domain
from lab.openstack import proxy
from lab.openstack import stack
from lab.openstack import steps

NAME = 'snapdriver-pressure'
# All uploads pass at so many bytes a second.
SLOW = proxy.Fault('slow', rate=20_000_000, times=sys.maxsize)
IDLE_SECONDS = 30.0
JOB_POLL_SECONDS = 0.5
STORE_SECONDS = 0.5
# Overwrites what is on the disk, beside the small writes that are measured.
OVERWRITE = ('i=0; while :; do dd if=/dev/zero of=/mnt/payload/10 bs=1M'
             ' count=1 seek=$((i % 100)) conv=notrunc,fsync; i=$((i + 1));'
             ' usleep 200000; done')
AHEAD = (('snapdriver', 'read_ahead_limit', '4096'),
         ('snapdriver', 'read_ahead_threshold', '8'))
CASES = {'without': (('snapdriver', 'read_ahead_limit', '0'),),
         'with': AHEAD,
         'with gentle': (*AHEAD, ('snapdriver', 'bandwidth_limit', '100'))}
# The guest's longest gap in seconds, and its 99th percentile divided by that
# of an idle host.
MAX_GAP_SECONDS = 0.5
MAX_GAP_RATIO = 2.0


def store(folder: pathlib.Path) -> None:
    """Have the kernel write back what Glance has stored.

    By default it does so in one piece every half a minute, which slows the
    guest if its disk is on the same device.
    """
    for path in folder.iterdir():
        # It may be gone by now.
        with contextlib.suppress(FileNotFoundError), open(path) as one:
            os.fdatasync(one.fileno())


class JobWatch:
    """Notes when a domain's backup job ends."""

    def __init__(self, watched: domain.Domain) -> None:
        self._domain = watched
        self._seen = False
        self.ended: float | None = None

    def look(self) -> None:
        if self.ended is not None:
            return
        runs = self._domain.has_backup_job()
        if self._seen and not runs:
            self.ended = time.monotonic()
        self._seen = self._seen or runs


@dataclasses.dataclass(frozen=True)
class Row:
    """A snapshot, or the idle guest.

    It is ok if its image is active and the job ended when it should have;
    `gaps_ok` says whether the guest was disturbed as little as it should be.
    """

    name: str
    ok: bool
    p99_gap_seconds: float
    longest_gap_seconds: float
    seconds: float | None = None
    job_seconds: float | None = None
    scratch_peak_bytes: int | None = None
    gaps_ok: bool | None = None


class Pressure:
    """Takes snapshots with and without reading ahead."""

    #: Once it is booted.
    server: measure.Server

    def __init__(self, lab: stack.Stack, glance: proxy.Proxy) -> None:
        self.lab = lab
        self.api = lab.cloud
        self.rows: list[Row] = []
        self._proxy = glance

    def run(self) -> None:
        """Do it; restore nova-compute's options."""
        step = steps.Step
        plan: steps.Plan = [
            step("the last run's server", self._clean),
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
        self.api.clean(NAME, f'{NAME}-')

    def _compute(self, options: config.Options) -> str:
        api = ('glance', 'api_servers', self._proxy.url)
        return self.lab.compute(config.Compute(options=(*options, api)))

    def _boot(self) -> None:
        self.server = measure.boot(
            self.api, NAME, self.lab.guest_image(), stack.FLAVOR)
        self.server.wait_beat()
        self.server.domain.wait_agent()
        self.server.domain.agent('guest-exec', path='/bin/sh',
                                 arg=['-c', OVERWRITE])

    def _observer(self) -> measure.Observer:
        return measure.Observer(self.server, self.lab.settings.snapshots)

    def _idle(self) -> str:
        with self._observer() as seen:
            time.sleep(IDLE_SECONDS)
        self.rows.append(Row('idle', True, *_gaps(seen)))
        return line(self.rows[-1])

    def _snapshot(self, name: str) -> str:
        began = time.monotonic()
        job = JobWatch(self.server.domain)
        with (self._observer() as seen,
              repeat.repeated(job.look, JOB_POLL_SECONDS)):
            image = self.api.create_image(self.server.id, f'{NAME}-{name}')
            status = self.api.wait_image(
                image, measure.SNAPSHOT_TIMEOUT)['status']
            seconds = time.monotonic() - began
            self.api.wait_server(self.server.id)
        self.api.delete_image(image)
        p99, longest = _gaps(seen)
        took = round((job.ended or time.monotonic()) - began, 1)
        early = took < seconds / 2
        self.rows.append(Row(
            name, status == 'active' and early == (name != 'without'), p99,
            longest, round(seconds, 1), took, seen.staging_peak,
            p99 <= MAX_GAP_RATIO * self.rows[0].p99_gap_seconds and
            longest <= MAX_GAP_SECONDS))
        return line(self.rows[-1])


def _gaps(seen: measure.Observer) -> tuple[float, float]:
    """Return the 99th percentile and the longest of the gaps, seconds."""
    found = seen.gaps()
    return figures.percentile(found, 99) or 0.0, max(found)


def line(row: Row) -> str:
    text = (f'(gaps: p99 {row.p99_gap_seconds:.2f} s, longest'
            f' {row.longest_gap_seconds:.2f} s')
    if row.seconds is not None and row.scratch_peak_bytes is not None:
        text += (f'; job {row.job_seconds:.1f} of {row.seconds:.1f} s, scratch'
                 f' {row.scratch_peak_bytes / (1 << 20):.0f} MiB')
    return text + ')'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    command.add_json(parser)


def run(lab: stack.Stack, args: argparse.Namespace) -> int:
    images = lab.settings.root / 'glance' / 'images'
    with (proxy.Proxy(lab.settings) as glance,
          repeat.repeated(functools.partial(store, images), STORE_SECONDS)):
        glance.arm(SLOW)
        pressure = Pressure(lab, glance)
        pressure.run()
    command.save(args.json, rows=pressure.rows)
    return 0 if all(row.ok for row in pressure.rows) else 1

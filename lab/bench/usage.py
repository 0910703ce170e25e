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

"""Count what the processes of a snapshot use: CPU, memory, bytes, files.

From outside, so that all ways to take a snapshot are measured alike.
"""

import collections
import collections.abc
import contextlib
import dataclasses
import os
import pathlib
import select
import stat
import subprocess
import time
from typing import Self

from lab.observe import measure
from lab.observe import processes
from lab.observe import repeat
from lab.openstack import config
from lab.openstack import process
from lab.openstack import settings

# Seconds between two looks. Each goes through all processes of the machine.
SAMPLE_SECONDS = 0.25
WATCH_SECONDS = 0.02
# QEMU's copy of what the guest overwrites.
SCRATCH = 'scratch'
READERS = ('qemu-img', 'qemu-nbd')


def bytes_read(one: processes.Process) -> int:
    """Return what a process has read, in bytes.

    Asynchronous reads are no calls of read(), and reads from the page cache
    do not count as read from the disk: each counter misses some.
    """
    counters = one.io_counters()
    return int(max(counters.read_chars, counters.read_bytes))


def unnamed_bytes(pid: int) -> int:
    """Return what a process's open files take that are deleted already."""
    total = 0
    folder = f'/proc/{pid}/fd'
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            with contextlib.suppress(OSError):
                found = os.stat(f'{folder}/{name}')
                if stat.S_ISREG(found.st_mode) and not found.st_nlink:
                    total += found.st_blocks * measure.BLOCK_BYTES
    return total


def staged_bytes(folder: pathlib.Path) -> int:
    """Return what the snapshots directory takes, without scratch files."""
    scratch = 0
    for path in folder.glob(f'*/{SCRATCH}'):
        with contextlib.suppress(FileNotFoundError):
            scratch += path.stat().st_blocks * measure.BLOCK_BYTES
    return max(0, measure.allocated(folder) - scratch)


@dataclasses.dataclass(frozen=True)
class Sample:
    """CPU seconds up to a moment, by what has used them."""

    at: float
    cpu_seconds: dict[str, float]


def spent(samples: collections.abc.Sequence[Sample], began: float,
          ended: float) -> dict[str, float]:
    """Return the CPU seconds between two moments, by what has used them."""
    if not samples:
        return {}
    first, last = _at(samples, began), _at(samples, ended)
    return {name: round(last[name] - first.get(name, 0.0), 2)
            for name in last}


def _at(samples: collections.abc.Sequence[Sample],
        when: float) -> dict[str, float]:
    """Return the sample nearest to a moment."""
    return min(samples, key=lambda one: abs(one.at - when)).cpu_seconds


@dataclasses.dataclass
class Child:
    """A process that nova-compute has started while it was watched."""

    name: str
    memory_peak: int = 0
    bytes_read: int = 0


class Monitor(contextlib.ExitStack):
    """Watches nova-compute with its children, QEMU and Glance, in a thread.

    :raises LabError: Glance does not run
    """

    def __init__(self, conf: settings.Settings, domain: str) -> None:
        super().__init__()
        self._conf = conf
        self._nova_mark = str(config.compute_file(conf))
        self._qemu_mark = f'guest={domain},'
        self._glance = glance_session(conf)
        self._lines: dict[processes.Process, str] = {}
        self._old: set[processes.Process] = set()
        self._qemu_read: list[int] = []
        self.samples: list[Sample] = []
        self.children: dict[processes.Process, Child] = {}
        self.staged_peak = 0

    def __enter__(self) -> Self:
        self._old = set(processes.every())
        self._before = staged_bytes(self._conf.snapshots)
        self._sample()
        self.callback(self._sample)
        self.enter_context(repeat.repeated(self._sample, SAMPLE_SECONDS))
        return self

    @property
    def memory_peak(self) -> int:
        """Return the most that a child of nova-compute had, in bytes."""
        return max((child.memory_peak for child in self.children.values()),
                   default=0)

    @property
    def bytes_read(self) -> int:
        """Return what the guest's QEMU and QEMU's programs have read."""
        programs = sum(child.bytes_read for child in self.children.values()
                       if child.name in READERS)
        return max(self._qemu_read) - min(self._qemu_read) + programs

    def _sample(self) -> None:
        now = time.time()
        cpu: dict[str, float] = collections.defaultdict(float)
        unnamed = 0
        for one, what in self._concerned():
            with contextlib.suppress(processes.Gone):
                # With the children that it has waited for.
                cpu[what] += sum(one.cpu_times()[:4])
                if what == 'qemu':
                    self._qemu_read.append(bytes_read(one))
                elif what == 'nova' and one not in self._old:
                    self._look(one)
                    unnamed += unnamed_bytes(one.pid)
        self.samples.append(Sample(now, dict(cpu)))
        staged = staged_bytes(self._conf.snapshots) - self._before
        self.staged_peak = max(self.staged_peak, staged + unnamed)

    def _concerned(self) -> list[tuple[processes.Process, str]]:
        """Return the processes that count, and as what."""
        everyone = list(processes.every(['ppid']))
        nova = {one.pid for one in everyone
                if self._nova_mark in self._line(one)}
        # By pid: parents have lower ones, but for a while after a wrap.
        for one in everyone:
            if one.info['ppid'] in nova:
                nova.add(one.pid)
        return [(one, what) for one in everyone
                if (what := 'nova' if one.pid in nova else self._what(one))]

    def _what(self, one: processes.Process) -> str:
        with contextlib.suppress(ProcessLookupError):
            if os.getsid(one.pid) == self._glance:
                return 'glance'
        return 'qemu' if self._qemu_mark in self._line(one) else ''

    def _line(self, one: processes.Process) -> str:
        """Return a command line; a new process may still have its parent's."""
        if one not in self._old or one not in self._lines:
            self._lines[one] = processes.command(one)
        return self._lines[one]

    def _look(self, one: processes.Process) -> None:
        words = self._line(one).split()
        name = pathlib.Path(words[0]).name if words else ''
        child = self.children.setdefault(one, Child(name))
        child.name = name or child.name
        child.memory_peak = max(child.memory_peak,
                                processes.memory_peak(one.pid))
        child.bytes_read = max(child.bytes_read, bytes_read(one))


def glance_session(conf: settings.Settings) -> int:
    """Return the session of Glance's processes.

    :raises LabError: Glance does not run
    """
    record = process.Daemon(conf, 'glance').record()
    if record is None:
        raise settings.LabError('Glance does not run', conf.log('glance'))
    return record.pid


@dataclasses.dataclass(frozen=True)
class Timed:
    """What a command took."""

    seconds: float
    cpu_seconds: float
    memory_peak: int


def timed(log: pathlib.Path, *argv: str) -> Timed:
    """Run a command to its end, and discard what it prints.

    :param log: a file for its errors
    :raises LabError: it failed
    """
    began = time.monotonic()
    with open(log, 'ab') as errors:
        child = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=errors, env=settings.environment())
        # wait4() would count its parent's memory, too.
        memory = _watched(child.pid)
        _, status, used = os.wait4(child.pid, 0)
    seconds = time.monotonic() - began
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise settings.LabError(
            f'{argv[0]} ended with status {child.returncode}', log)
    return Timed(round(seconds, 2), round(used.ru_utime + used.ru_stime, 2),
                 memory)


def _watched(pid: int) -> int:
    """Wait for the end of a process; return its peak of memory."""
    peak = 0
    descriptor = os.pidfd_open(pid)
    try:
        while not select.select([descriptor], [], [], WATCH_SECONDS)[0]:
            peak = max(peak, processes.memory_peak(pid))
    finally:
        os.close(descriptor)
    return peak

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

"""What a snapshot's processes use: CPU, memory, bytes, files without names.

Looked at from outside, in /proc, so that it is the same for every way to take
a snapshot.
"""

import collections
import collections.abc
import dataclasses
import os
import pathlib
import select
import stat
import subprocess
import threading
import time
import types

from lab.observe import measure
from lab.openstack import config
from lab.openstack import process
from lab.openstack import settings

# Seconds between two looks. Each goes through all processes of the machine.
SAMPLE_SECONDS = 0.25
WATCH_SECONDS = 0.02
TICKS = os.sysconf('SC_CLK_TCK')
BLOCK_BYTES = 512
KIB = 1 << 10
# QEMU's name for the old contents of what the guest overwrites.
SCRATCH = 'scratch'
READERS = ('qemu-img', 'qemu-nbd')


@dataclasses.dataclass(frozen=True)
class Process:
    """One look at a process; CPU with that of the children it has reaped."""

    pid: int
    parent: int
    session: int
    started: int
    cpu_seconds: float


def parse(pid: int, text: str) -> Process:
    """A process by its line in /proc/PID/stat."""
    # The second field, the name, may itself contain spaces and brackets.
    fields = text.rpartition(')')[2].split()
    ticks = sum(int(field) for field in fields[11:15])
    return Process(pid, int(fields[1]), int(fields[3]), int(fields[19]),
                   ticks / TICKS)


def processes() -> list[Process]:
    """All processes."""
    found = []
    for name in os.listdir('/proc'):
        if name.isdigit():
            text = _read(int(name), 'stat')
            if text:
                found.append(parse(int(name), text))
    return found


def _read(pid: int, name: str) -> str:
    """A file of /proc; empty if the process is gone."""
    try:
        return pathlib.Path(f'/proc/{pid}/{name}').read_text(errors='replace')
    except OSError:
        return ''


def _field(text: str, name: str) -> int:
    """The number behind a name, in a file of `name: number` lines."""
    for line in text.splitlines():
        key, _, value = line.partition(':')
        if key == name:
            return int(value.split()[0])
    return 0


def bytes_read(pid: int) -> int:
    """What it has read, from files or past the page cache, in bytes."""
    text = _read(pid, 'io')
    # Asynchronous reads are not calls of read(), and cached ones do not
    # come from the disk: each of the counters misses some.
    return max(_field(text, 'rchar'), _field(text, 'read_bytes'))


def memory_peak(pid: int) -> int:
    """The most that was resident, in bytes."""
    return _field(_read(pid, 'status'), 'VmHWM') * KIB


def unnamed_bytes(pid: int) -> int:
    """What a process's open files take that have no name any more."""
    total = 0
    folder = f'/proc/{pid}/fd'
    try:
        names = os.listdir(folder)
    except OSError:
        return 0
    for name in names:
        try:
            found = os.stat(f'{folder}/{name}')
        except OSError:
            continue
        if stat.S_ISREG(found.st_mode) and not found.st_nlink:
            total += found.st_blocks * BLOCK_BYTES
    return total


def staged_bytes(folder: pathlib.Path) -> int:
    """What is staged in the directory of snapshots, beside scratch files."""
    scratch = 0
    for path in folder.glob(f'*/{SCRATCH}'):
        try:
            scratch += path.stat().st_blocks * BLOCK_BYTES
        except FileNotFoundError:
            continue
    return max(0, measure.allocated(folder) - scratch)


@dataclasses.dataclass(frozen=True)
class Sample:
    """CPU seconds up to a moment, by whose they are."""

    at: float
    cpu_seconds: dict[str, float]


def spent(samples: collections.abc.Sequence[Sample], began: float,
          ended: float) -> dict[str, float]:
    """CPU seconds between two moments, by whose they are."""
    if not samples:
        return {}
    first, last = _at(samples, began), _at(samples, ended)
    return {name: round(last[name] - first.get(name, 0.0), 2)
            for name in last}


def _at(samples: collections.abc.Sequence[Sample],
        when: float) -> dict[str, float]:
    """The sample nearest to a moment."""
    return min(samples, key=lambda one: abs(one.at - when)).cpu_seconds


@dataclasses.dataclass
class Child:
    """A process that nova-compute began while it was watched."""

    name: str
    memory_peak: int = 0
    bytes_read: int = 0


class Monitor:
    """Watches nova-compute and its children, QEMU and Glance, in a thread."""

    def __init__(self, conf: settings.Settings, domain: str,
                 glance: int) -> None:
        """:param glance: the process that leads Glance's session"""
        self._conf = conf
        self._domain = domain
        self._glance = glance
        self._lines: dict[tuple[int, int], str] = {}
        self._old: set[tuple[int, int]] = set()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._qemu_read: list[int] = []
        self.samples: list[Sample] = []
        self.children: dict[tuple[int, int], Child] = {}
        self.staged_peak = 0

    def __enter__(self) -> 'Monitor':
        self._old = {(one.pid, one.started) for one in processes()}
        self._before = staged_bytes(self._conf.snapshots)
        self._sample()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None,
                 error: BaseException | None,
                 trace: types.TracebackType | None) -> None:
        self._stopping.set()
        self._thread.join()
        self._sample()

    @property
    def memory_peak(self) -> int:
        """The most that one child of nova-compute had, in bytes."""
        return max((child.memory_peak for child in self.children.values()),
                   default=0)

    @property
    def bytes_read(self) -> int:
        """Of disks: by the guest's QEMU, and by programs of QEMU's."""
        programs = sum(child.bytes_read for child in self.children.values()
                       if child.name in READERS)
        return max(self._qemu_read) - min(self._qemu_read) + programs

    def _watch(self) -> None:
        while not self._stopping.wait(SAMPLE_SECONDS):
            self._sample()

    def _sample(self) -> None:
        now = time.time()
        cpu: dict[str, float] = collections.defaultdict(float)
        unnamed = 0
        for one, whose in self._concerned():
            cpu[whose] += one.cpu_seconds
            if whose == 'qemu':
                self._qemu_read.append(bytes_read(one.pid))
            elif whose == 'nova' and (one.pid, one.started) not in self._old:
                self._look(one)
                unnamed += unnamed_bytes(one.pid)
        self.samples.append(Sample(now, dict(cpu)))
        staged = staged_bytes(self._conf.snapshots) - self._before
        self.staged_peak = max(self.staged_peak, staged + unnamed)

    def _concerned(self) -> list[tuple[Process, str]]:
        everyone = processes()
        mark = str(config.compute_file(self._conf))
        nova = {one.pid for one in everyone if mark in self._line(one)}
        # Parents have lower numbers, but for a while after a wrap-around.
        for one in sorted(everyone, key=lambda one: one.pid):
            if one.parent in nova:
                nova.add(one.pid)
        guest = f'guest={self._domain},'
        found = []
        for one in everyone:
            if one.pid in nova:
                found.append((one, 'nova'))
            elif one.session == self._glance:
                found.append((one, 'glance'))
            elif guest in self._line(one):
                found.append((one, 'qemu'))
        return found

    def _line(self, one: Process) -> str:
        """Its command line; read twice, as a new process has its parent's."""
        key = (one.pid, one.started)
        if key in self._old and key in self._lines:
            return self._lines[key]
        self._lines[key] = _read(one.pid, 'cmdline').replace('\0', ' ')
        return self._lines[key]

    def _look(self, one: Process) -> None:
        words = self._line(one).split()
        name = pathlib.Path(words[0]).name if words else ''
        child = self.children.setdefault((one.pid, one.started), Child(name))
        child.name = name or child.name
        child.memory_peak = max(child.memory_peak, memory_peak(one.pid))
        child.bytes_read = max(child.bytes_read, bytes_read(one.pid))


@dataclasses.dataclass(frozen=True)
class Timed:
    """What one command took."""

    seconds: float
    cpu_seconds: float
    memory_peak: int


def timed(log: pathlib.Path, *argv: str) -> Timed:
    """Run a command to its end; what it prints is thrown away.

    :param log: its errors are appended here
    :raises LabError: it failed
    """
    began = time.monotonic()
    with open(log, 'ab') as errors:
        child = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=errors, env=settings.environment())
        # Not what wait4() says of memory: that counts its parent's, too.
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
    """Wait for the end of a process; the memory that it had at most."""
    peak = 0
    descriptor = os.pidfd_open(pid)
    try:
        while not select.select([descriptor], [], [], WATCH_SECONDS)[0]:
            peak = max(peak, memory_peak(pid))
    finally:
        os.close(descriptor)
    return peak


def glance_session(conf: settings.Settings) -> int:
    """The process that leads Glance's session.

    :raises LabError: Glance does not run
    """
    record = process.Daemon(conf, 'glance').record()
    if record is None:
        raise settings.LabError('Glance does not run', conf.log('glance'))
    return record.pid

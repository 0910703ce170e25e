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

"""The contenders: our driver, Nova's own, and tools that move a disk."""

import collections.abc
import contextlib
import dataclasses
import pathlib
import resource
import shutil
import subprocess
import time

from lab.bench import figures
from lab.bench import phases
from lab.bench import usage
from lab.observe import measure
from lab.openstack import config
from lab.openstack import domain
from lab.openstack import process
from lab.openstack import settings
from lab.openstack import stack

NAME = 'snapdriver-bench'
START_TIMEOUT = 30.0
COMMAND_TIMEOUT = 1800.0
# Of raw disks, too, so that contenders can be compared, and compress.
FORMAT = ('libvirt', 'snapshot_image_format', 'qcow2')
HAS_COMPRESSION = (
    'from nova_snapdriver import conf\n'
    "print(any(option.name == 'compression' for option in conf.OPTS))")


@dataclasses.dataclass
class Subject:
    """The disk of a server that writes, and files for the contenders."""

    lab: stack.Stack
    disk: str
    disk_format: str
    server: measure.Server
    #: A copy from before the server wrote.
    template: pathlib.Path
    folder: pathlib.Path
    image_format: str = 'qcow2'
    #: Virtual size.
    bytes: int = 0

    @property
    def finished(self) -> pathlib.Path:
        """Return the image that `curl` uploads: our first plain one."""
        return self.folder / f'finished.{self.image_format}'

    def finish(self) -> pathlib.Path:
        """Return it; make it of the template if it is not there."""
        if not self.finished.exists():
            convert(self.template, self.disk_format, self.finished,
                    self.image_format)
        return self.finished

    @property
    def log(self) -> pathlib.Path:
        return self.lab.settings.log('bench')

    def monitor(self) -> usage.Monitor:
        return usage.Monitor(self.lab.settings, self.server.domain.name)


# Returns a command that reads an export, by its socket.
Command = collections.abc.Callable[[settings.Settings, str], list[str]]
Take = collections.abc.Callable[[Subject, figures.Row], figures.Row]


@dataclasses.dataclass(frozen=True)
class Contender:
    """A way to move a disk, and the nova-compute that it needs, if any."""

    title: str
    take: Take
    compute: config.Compute | None = None
    #: Returns why it cannot be run, or nothing.
    missing: collections.abc.Callable[[stack.Stack], str] = lambda lab: ''


def snapshot(marks: tuple[phases.Mark, ...]) -> Take:
    def take(subject: Subject, row: figures.Row) -> figures.Row:
        api = subject.lab.cloud
        said = measure.Said(subject.lab.settings.log('nova-compute'))
        with subject.monitor() as used:
            run = measure.snapshot(api, subject.server,
                                   f'{NAME}-{row.contender}', measure.by_api)
        if row.contender == 'plain' and not subject.finished.exists():
            api.download(run.image_id, subject.finished)
        api.delete_image(run.image_id)
        stored = run.began_at + run.seconds
        split = phases.split(said.lines(), marks, run.began_at, stored)
        row = dataclasses.replace(
            row, phases=split, freeze_seconds=run.freeze_seconds,
            memory_peak_bytes=used.memory_peak, bytes_read=used.bytes_read)
        ended = stored + split.get('verify', 0.0)
        return _watched(row, run, used, ended)

    return take


def _watched(row: figures.Row, run: measure.Run, used: usage.Monitor,
             ended: float) -> figures.Row:
    """Add what was observed of an upload.

    :param ended: when everything was done, by time.time()
    """
    row = dataclasses.replace(
        row, seconds=run.seconds, bytes_sent=run.size,
        cpu_seconds=usage.spent(used.samples, run.began_at, ended),
        staging_peak_bytes=max(run.staging_peak_bytes, used.staged_peak),
        staged_bytes=used.staged_peak)
    return figures.with_gaps(row, run.write_gaps)


def curl(subject: Subject, row: figures.Row) -> figures.Row:
    """Upload a finished file: the floor."""
    run, used, cpu = _put(subject, row.contender, subject.finish())
    row = _watched(row, run, used, run.began_at + run.seconds)
    # It has its file already.
    row = dataclasses.replace(row, staging_peak_bytes=None, staged_bytes=None,
                              phases={'upload': run.seconds})
    return _with_tool(row, cpu)


def _put(subject: Subject, name: str, path: pathlib.Path
         ) -> tuple[measure.Run, usage.Monitor, float]:
    before = _children_cpu()
    with subject.monitor() as used:
        run = measure.put(subject.lab.cloud, subject.server,
                          f'{NAME}-{name}', path, subject.image_format)
    return run, used, _children_cpu() - before


def _with_tool(row: figures.Row, cpu_seconds: float) -> figures.Row:
    return dataclasses.replace(row, cpu_seconds={
        **row.cpu_seconds, 'tool': round(cpu_seconds, 2)})


def _children_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def convert(source: pathlib.Path, disk_format: str, target: pathlib.Path,
            image_format: str) -> None:
    """Convert a disk, which may be in use, to a file."""
    # -U: QEMU has it open. The guest writes meanwhile, and the image is of no
    # instant; only the time counts.
    process.output('qemu-img', 'convert', '-U', '-f', disk_format, '-O',
                   image_format, source, target,
                   timeout=COMMAND_TIMEOUT)


def _convert_and_curl(subject: Subject, row: figures.Row) -> figures.Row:
    """Convert to a file and upload it, as a script would do."""
    file = subject.folder / 'converted.qcow2'
    measure.settle(subject.server.files())
    before, began = _children_cpu(), time.monotonic()
    try:
        with subject.monitor() as copying, _observed(subject) as seen:
            convert(subject.server.disk, subject.disk_format, file,
                    subject.image_format)
        took = round(time.monotonic() - began, 2)
        cpu = _children_cpu() - before
        run, used, more = _put(subject, row.contender, file)
        staged = file.stat().st_blocks * measure.BLOCK_BYTES
    finally:
        file.unlink(missing_ok=True)
    row = _watched(row, run, used, run.began_at + run.seconds)
    first = usage.spent(copying.samples, 0.0, time.time())
    row = dataclasses.replace(
        row, seconds=round(took + run.seconds, 2), staged_bytes=staged,
        staging_peak_bytes=staged,
        phases={'convert': took, 'upload': run.seconds},
        cpu_seconds={name: round(first.get(name, 0.0) + value, 2)
                     for name, value in row.cpu_seconds.items()})
    row = figures.with_gaps(row, seen.gaps() + run.write_gaps)
    return _with_tool(row, cpu + more)


def _observed(subject: Subject) -> measure.Observer:
    return measure.Observer(subject.server, subject.lab.settings.snapshots)


def _capture_alone(subject: Subject, row: figures.Row) -> figures.Row:
    """Run Debian's virtnbdbackup: read a backup job into a directory."""
    target, place = subject.folder / 'virtnbdbackup', subject.folder / 'job'
    # QEMU creates its socket there.
    settings.make_directory(place, 0o1777)
    measure.settle(subject.server.files())
    try:
        with subject.monitor() as used, _observed(subject) as seen:
            began = time.time()
            took = usage.timed(
                subject.log, 'virtnbdbackup', '-U', domain.VIRSH[-1],
                '-d', subject.server.domain.name, '-l', 'copy', '-i', 'vda',
                '-n', '-S', str(place), '-f', str(place / 'nbd'),
                '-o', str(target))
        staged = measure.allocated(target)
    finally:
        shutil.rmtree(target, ignore_errors=True)
    row = timed(row, took)
    row = dataclasses.replace(
        row, staging_peak_bytes=staged, staged_bytes=staged,
        bytes_read=used.bytes_read, cpu_seconds={
            **usage.spent(used.samples, began, began + took.seconds),
            **row.cpu_seconds})
    return figures.with_gaps(row, seen.gaps())


def timed(row: figures.Row, took: usage.Timed) -> figures.Row:
    return dataclasses.replace(
        row, seconds=took.seconds, memory_peak_bytes=took.memory_peak,
        phases={'read': took.seconds},
        cpu_seconds={'tool': took.cpu_seconds})


def _reading(command: Command) -> Take:
    """Read an export of qemu-nbd, and discard it."""
    def take(subject: Subject, row: figures.Row) -> figures.Row:
        measure.settle([subject.template])
        with exported(subject.template, subject.disk_format,
                      subject.folder) as socket:
            return timed(row, usage.timed(subject.log, *command(
                subject.lab.settings, socket)))

    return take


@contextlib.contextmanager
def exported(path: pathlib.Path, disk_format: str,
             folder: pathlib.Path) -> collections.abc.Iterator[str]:
    """Serve a file by qemu-nbd; yield the path of its socket."""
    socket = folder / 'nbd.sock'
    socket.unlink(missing_ok=True)
    child = subprocess.Popen(
        ['qemu-nbd', '--read-only', '--persistent', '--shared=0', '--socket',
         str(socket), '-f', disk_format, str(path)],
        stdin=subprocess.DEVNULL, env=settings.environment())
    try:
        process.wait_for(str(socket), socket.exists, START_TIMEOUT,
                         poll=0.01)
        yield str(socket)
    finally:
        child.terminate()
        child.wait()


def stream(conf: settings.Settings, socket: str) -> list[str]:
    """Return our reader's command; without hashes, as nbdcopy."""
    return [conf.bin('python'), '-P', '-m', 'nova_snapdriver.stream',
            '--socket', socket, '--format', 'qcow2', '--hash', 'none']


def _nbdcopy(conf: settings.Settings, socket: str) -> list[str]:
    return ['nbdcopy', f'nbd+unix:///?socket={socket}', 'null:']


def _no_compression(lab: stack.Stack) -> str:
    said = process.output(lab.settings.bin('python'), '-c', HAS_COMPRESSION)
    if said.strip() == 'True':
        return ''
    return 'this version has no [snapdriver] compression'


def _no_virtnbdbackup(lab: stack.Stack) -> str:
    return ('' if shutil.which('virtnbdbackup') else
            'the package virtnbdbackup is not installed')


def _ours(title: str, compression: str | None = None) -> Contender:
    if compression is None:
        return Contender(title, snapshot(phases.OURS),
                         config.Compute(options=(FORMAT,)))
    option = ('snapdriver', 'compression', compression)
    return Contender(title, snapshot(phases.OURS),
                     config.Compute(options=(FORMAT, option)),
                     _no_compression)


def _stock(title: str, *options: tuple[str, str, str]) -> Contender:
    return Contender(title, snapshot(phases.STOCK), config.Compute(
        'stock', options=(FORMAT, *options)))


# In the order of their runs, so that nova-compute starts seldom.
CONTENDERS: dict[str, Contender] = {
    'plain': _ours('snapdriver'),
    'zstd': _ours('snapdriver, zstd', 'zstd'),
    'zlib': _ours('snapdriver, zlib', 'zlib'),
    'curl': Contender('curl, finished file', curl),
    'convert': Contender('qemu-img convert, curl', _convert_and_curl),
    'read': Contender('snapdriver, reading alone', _reading(stream)),
    'nbdcopy': Contender('nbdcopy, reading alone', _reading(_nbdcopy)),
    'virtnbdbackup': Contender('virtnbdbackup, to a file', _capture_alone,
                               missing=_no_virtnbdbackup),
    'stock': _stock("Nova's own"),
    'stock-compressed': _stock("Nova's own, snapshot_compression",
                               ('libvirt', 'snapshot_compression', 'true')),
}

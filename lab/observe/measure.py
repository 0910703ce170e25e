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

"""Watches a snapshot from outside: the guest's writes, the local disk."""

import collections.abc
import dataclasses
import itertools
import json
import os
import pathlib
import re
import subprocess
import threading
import time
import types
import typing

from lab.openstack import cloud
from lab.openstack import domain
from lab.openstack import process
from lab.openstack import settings

# Seconds between two looks at the directory and the console.
SAMPLE_SECONDS = 0.05
# Between two looks at Glance, and at the domain: these cost more. At the end
# of an upload it is Glance's own log that is looked at: asking for the image
# ten times a second would take a quarter of a core from what is measured.
IMAGE_POLL_SECONDS = 0.1
ALIVE_POLL_SECONDS = 5.0
DOMAIN_POLL_SECONDS = 2.0
BEAT_TIMEOUT = 30.0
READ_BYTES = 8 << 20
SNAPSHOT_TIMEOUT = 600.0

BEAT = re.compile(r'seq (\d+) ([0-9.]+)$')
RESTORED = re.compile(r'restored (.*)$')
CAPTURED = re.compile(
    r'path=(?P<path>\w+) consistency=(?P<consistency>\w+)'
    r' freeze_seconds=(?P<freeze>[0-9.]+)')


class Console:
    """Reads a server's console while it grows.

    virtlogd begins a new file when it has 2 MiB; what was left in the old
    one is read first.
    """

    def __init__(self, path: pathlib.Path, from_end: bool = False) -> None:
        self._path = path
        self._file: typing.BinaryIO | None = None
        self._rest = b''
        self._from_end = from_end

    def lines(self) -> list[str]:
        """The lines that were completed since the last call."""
        text = self._rest + self._read()
        if self._rotated():
            self._close()
            text += self._read()
        *lines, self._rest = text.split(b'\n')
        return [line.decode(errors='replace').strip() for line in lines]

    def _read(self) -> bytes:
        if self._file is None:
            try:
                self._file = open(self._path, 'rb')
            except FileNotFoundError:
                return b''
            if self._from_end:
                self._file.seek(0, os.SEEK_END)
        self._from_end = False
        return self._file.read()

    def _rotated(self) -> bool:
        if self._file is None or not self._path.exists():
            return False
        return (os.fstat(self._file.fileno()).st_ino
                != self._path.stat().st_ino)

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file = None

    def wait(self, pattern: re.Pattern[str],
             timeout: float) -> re.Match[str]:
        """The first line from here on that matches, within seconds.

        :raises LabError: there was none
        """
        found: list[re.Match[str]] = []

        def there() -> bool:
            found.extend(match for line in self.lines()
                         if (match := pattern.match(line)))
            return bool(found)

        process.wait_for(f'{pattern.pattern!r} on the console', there,
                         timeout, self._path)
        return found[0]


@dataclasses.dataclass(frozen=True)
class Beat:
    """The end of one round of the guest's writes."""

    number: int
    #: The guest's own clock and the host's, both in seconds.
    uptime: float
    seen: float


@dataclasses.dataclass(frozen=True)
class Server:
    """A server of the lab, and where its things are."""

    id: str
    name: str
    domain: domain.Domain
    folder: pathlib.Path

    @property
    def console(self) -> pathlib.Path:
        return self.folder / 'console.log'

    @property
    def disk(self) -> pathlib.Path:
        return self.folder / 'disk'


def server(api: cloud.Cloud, server_id: str) -> Server:
    found = api.server(server_id)
    return Server(
        server_id, str(found['name']),
        domain.Domain(found['OS-EXT-SRV-ATTR:instance_name']),
        api.settings.instances / server_id)


def disk_files(target: Server) -> list[pathlib.Path]:
    """A server's disk, and the file that it is backed by, if any."""
    said = json.loads(process.output(
        'qemu-img', 'info', '-U', '-f', _format(target), '--output',
        'json', str(target.disk)))
    backing = said.get('full-backing-filename')
    return [target.disk, *([pathlib.Path(backing)] if backing else [])]


def _format(target: Server) -> str:
    """The disk's format by the domain; nothing is ever probed."""
    match = re.search(r"<driver name='qemu' type='(\w+)'",
                      target.domain.xml())
    return match[1] if match else 'raw'


def settle(paths: list[pathlib.Path]) -> None:
    """Give each way of uploading the same start.

    Nothing of before is left to be written, and what is to be read is in
    memory: kernels differ in what they keep there, and a run that has to
    wait for the disk cannot be compared with one that has not.
    """
    os.sync()
    for path in paths:
        with open(path, 'rb') as file:
            _read_data(file.fileno())


def _read_data(descriptor: int) -> None:
    """Read a file's data, not its holes."""
    end = os.fstat(descriptor).st_size
    position = 0
    while position < end:
        try:
            position = os.lseek(descriptor, position, os.SEEK_DATA)
        except OSError:
            return  # only a hole is left
        stop = os.lseek(descriptor, position, os.SEEK_HOLE)
        while position < stop:
            size = min(READ_BYTES, stop - position)
            position += len(os.pread(descriptor, size, position)) or size


def allocated(folder: pathlib.Path) -> int:
    """Bytes that a directory's files take on the disk, all the way down."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                found = os.lstat(os.path.join(parent, name))
            except FileNotFoundError:
                continue
            total += found.st_blocks * 512
    return total


class Observer:
    """Watches a server and the directory of snapshots, in a thread."""

    def __init__(self, target: Server, folder: pathlib.Path) -> None:
        self._server = target
        self._folder = folder
        self._console = Console(target.console, from_end=True)
        self._before = allocated(folder)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._next_look = 0.0
        self.beats: list[Beat] = []
        self.staging_peak = 0
        #: Whether each look at the domain found it persistent.
        self.persistent: list[bool] = []

    def __enter__(self) -> 'Observer':
        self._thread.start()
        self._wait_beat()
        return self

    def __exit__(self, kind: type[BaseException] | None,
                 error: BaseException | None,
                 trace: types.TracebackType | None) -> None:
        try:
            if error is None:
                self._wait_beat()
        finally:
            self._stopping.set()
            self._thread.join()

    def _wait_beat(self) -> None:
        """Wait for one more write, so that no gap is cut off."""
        count = len(self.beats)
        process.wait_for('a write of the guest',
                         lambda: len(self.beats) > count, BEAT_TIMEOUT,
                         self._server.console, SAMPLE_SECONDS)

    def _watch(self) -> None:
        while not self._stopping.wait(SAMPLE_SECONDS):
            self._sample()

    def _sample(self) -> None:
        now = time.monotonic()
        used = allocated(self._folder) - self._before
        self.staging_peak = max(self.staging_peak, used)
        for line in self._console.lines():
            match = BEAT.match(line)
            if match:
                self.beats.append(
                    Beat(int(match[1]), float(match[2]), now))
        if now >= self._next_look:
            self._next_look = now + DOMAIN_POLL_SECONDS
            self.persistent.append(self._server.domain.persistent())

    def gaps(self) -> tuple[float, ...]:
        """The times between two writes by the guest's clock, in seconds."""
        return _gaps(beat.uptime for beat in self.beats)

    def gap(self) -> float:
        """The longest of them."""
        return max(self.gaps(), default=0.0)

    def host_gap(self) -> float:
        """The same by the host's clock, to SAMPLE_SECONDS.

        The guest's clock stands still while its CPU is stopped.
        """
        return max(_gaps(beat.seen for beat in self.beats), default=0.0)


def _gaps(times: collections.abc.Iterable[float]) -> tuple[float, ...]:
    return tuple(round(later - one, 3)
                 for one, later in itertools.pairwise(times))


@dataclasses.dataclass(frozen=True)
class Run:
    """What one upload took: a snapshot by a driver, or curl's."""

    image_id: str
    status: str
    size: int
    #: From the image's appearance in Glance until it is active.
    seconds: float
    staging_peak_bytes: int
    write_gap_seconds: float
    host_write_gap_seconds: float
    persistent: bool
    path: str | None = None
    consistency: str | None = None
    freeze_seconds: float | None = None
    #: By time.time(): when the clock started.
    began_at: float = 0.0
    #: All times between two writes of the guest, by its own clock.
    write_gaps: tuple[float, ...] = ()


def idle_gaps(target: Server, folder: pathlib.Path,
              seconds: float) -> tuple[float, ...]:
    """The gaps while nothing is done to the guest, in seconds."""
    with Observer(target, folder) as seen:
        time.sleep(seconds)
    return seen.gaps()


def idle_gap(target: Server, folder: pathlib.Path,
             seconds: float) -> float:
    """The longest of them."""
    return max(idle_gaps(target, folder, seconds), default=0.0)


# Asks for a snapshot of a server by a name; returns the image's id, and when
# the clock starts, by time.monotonic().
Request = collections.abc.Callable[[cloud.Cloud, Server, str],
                                   tuple[str, float]]


def by_command(api: cloud.Cloud, target: Server,
               name: str) -> tuple[str, float]:
    """Run the `openstack` command, as an operator does.

    The clock starts when Nova's API has accepted the request, which shows by
    the image in Glance, to IMAGE_POLL_SECONDS: the API makes it while it
    answers. What the command itself takes to start is left out.
    """
    child = api.start_openstack('server', 'image', 'create', '--name', name,
                                target.id)
    found: list[cloud.Json] = []

    def there() -> bool:
        found.extend(api.images(name))
        if child.poll():
            raise settings.LabError(
                f'openstack server image create: {child.communicate()[1]}')
        return bool(found)

    process.wait_for(f'image {name}', there, SNAPSHOT_TIMEOUT,
                     poll=IMAGE_POLL_SECONDS)
    began = time.monotonic()
    _finish(child)
    return str(found[0]['id']), began


def by_api(api: cloud.Cloud, target: Server,
           name: str) -> tuple[str, float]:
    """Call Nova's API. The clock starts when it has answered."""
    said = api.action(target.id, 'createImage', name=name)
    return str(said['image_id']), time.monotonic()


def snapshot(api: cloud.Cloud, target: Server, name: str,
             request: Request = by_command) -> Run:
    """Take a snapshot, and watch it.

    The clock stops when the image is active: when Glance has answered its
    upload, which is seen to SAMPLE_SECONDS.
    """
    conf = api.settings
    log = conf.log('nova-compute')
    said_before = log.stat().st_size
    requests = Said(conf.log('glance'))
    settle(disk_files(target))
    with Observer(target, conf.snapshots) as seen:
        image_id, began = request(api, target, name)
        began_at = time.time() - (time.monotonic() - began)
        _wait_stored(api, image_id, requests)
        seconds = time.monotonic() - began
        image = _wait_active(api, image_id)
    api.wait_server(target.id)
    run = _run(seen, image, seconds, began_at)
    return _with_log(run, image, log, said_before)


def _finish(child: 'subprocess.Popen[str]') -> None:
    """Let the command end in the background of what is measured."""
    threading.Thread(target=child.communicate, daemon=True).start()


class Said:
    """What is added to a log from now on."""

    def __init__(self, path: pathlib.Path) -> None:
        self._file = open(path, errors='replace')
        self._file.seek(0, os.SEEK_END)
        self._text = ''

    def text(self) -> str:
        """All of it, up to now."""
        self._text += self._file.read()
        return self._text

    def matches(self, pattern: str) -> bool:
        """Whether any of it, up to now, matches."""
        return re.search(pattern, self.text()) is not None

    def lines(self) -> list[str]:
        """All of it, up to now."""
        self._text += self._file.read()
        return self._text.splitlines()


def _wait_stored(api: cloud.Cloud, image_id: str, requests: Said) -> None:
    """Wait until Glance has logged a successful upload of an image."""
    stored = rf'PUT /v2/images/{image_id}/file .*\(HTTP/1\.\d 204\)'
    end = time.monotonic() + SNAPSHOT_TIMEOUT
    look = time.monotonic() + ALIVE_POLL_SECONDS
    while not requests.matches(stored) and time.monotonic() < end:
        if time.monotonic() > look:
            look += ALIVE_POLL_SECONDS
            _image(api, image_id)
        time.sleep(SAMPLE_SECONDS)


def _image(api: cloud.Cloud, image_id: str) -> cloud.Json:
    """The image; that it is gone says that its snapshot has failed."""
    return _explained(api, lambda: api.image(image_id))


def _wait_active(api: cloud.Cloud, image_id: str) -> cloud.Json:
    return _explained(
        api, lambda: api.wait_image(image_id, SNAPSHOT_TIMEOUT))


def _explained(api: cloud.Cloud,
               ask: collections.abc.Callable[[], cloud.Json]) -> cloud.Json:
    try:
        return ask()
    except cloud.ApiError as error:
        raise settings.LabError(
            f'the snapshot failed, its image is gone: {error}',
            api.settings.log('nova-compute')) from error


def _run(seen: Observer, image: cloud.Json, seconds: float,
         began_at: float) -> Run:
    return Run(
        image_id=image['id'], status=image['status'], size=image['size'],
        seconds=round(seconds, 2), staging_peak_bytes=seen.staging_peak,
        write_gap_seconds=seen.gap(),
        host_write_gap_seconds=seen.host_gap(),
        persistent=all(seen.persistent),
        path=image.get('snapdriver_path'),
        consistency=image.get('snapdriver_consistency'),
        began_at=began_at, write_gaps=seen.gaps())


def _with_log(run: Run, image: cloud.Json, log: pathlib.Path,
              offset: int) -> Run:
    """Add what only nova-compute's log tells: how long it was frozen."""
    with open(log, errors='replace') as file:
        file.seek(offset)
        match = CAPTURED.search(file.read())
    if match is None:
        return run
    return dataclasses.replace(
        run, freeze_seconds=float(match['freeze']),
        path=run.path or match['path'],
        consistency=run.consistency or match['consistency'])


def put(api: cloud.Cloud, target: Server, name: str,
        path: pathlib.Path) -> Run:
    """Upload a file by curl while the guest writes, and watch it.

    The time is curl's own. The image is deleted at once: only the time is
    of interest.
    """
    image_id = api.new_image(name)
    settle([path])
    with Observer(target, api.settings.snapshots) as seen:
        began_at = time.time()
        seconds = api.put(image_id, path)
    run = _run(seen, api.image(image_id), seconds, began_at)
    api.delete_image(image_id)
    return run

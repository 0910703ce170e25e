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

"""Measure a snapshot from outside: the guest's writes, the local disk."""

import collections.abc
import contextlib
import dataclasses
import itertools
import json
import os
import pathlib
import re
import subprocess
import threading
import time
import typing
from typing import Self

from lab.observe import repeat
from lab.openstack import cloud
from lab.openstack import domain
from lab.openstack import process
from lab.openstack import settings

# Seconds between two looks at the directory and the console.
SAMPLE_SECONDS = 0.05
# Between two looks at Glance, and at the domain: these cost more. The end of
# an upload is read from Glance's own log: to ask for the image ten times a
# second would take a quarter of a core from what is measured.
IMAGE_POLL_SECONDS = 0.1
ALIVE_POLL_SECONDS = 5.0
DOMAIN_POLL_SECONDS = 0.5
BEAT_TIMEOUT = 30.0
BOOT_TIMEOUT = 180.0
READ_BYTES = 8 << 20
BLOCK_BYTES = 512
SNAPSHOT_TIMEOUT = 600.0

# What the guest prints: after each round of writes, and once it has checked
# its disk at its start.
BEAT = re.compile(r'seq (\d+) ([0-9.]+)$')
RESTORED = re.compile(r'restored (.*)$')
# In nova-compute's log.
CAPTURED = re.compile(
    r'path=(?P<path>\w+) consistency=(?P<consistency>\w+)'
    r' freeze_seconds=(?P<freeze>[0-9.]+)')


class Console:
    """Reads a server's console while it grows.

    virtlogd begins a new file at 2 MiB; the rest of the old one is read
    first.

    :param from_end: begin where it ends at the first call
    """

    def __init__(self, path: pathlib.Path, from_end: bool = False) -> None:
        self._path = path
        self._file: typing.BinaryIO | None = None
        self._rest = b''
        self._from_end = from_end

    def lines(self) -> list[str]:
        """Return the lines that were completed since the last call."""
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
        """Return the first line from here on that matches, within seconds.

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


class Said:
    """Reads what is added to a log from now on."""

    def __init__(self, path: pathlib.Path) -> None:
        self._file = open(path, errors='replace')
        self._file.seek(0, os.SEEK_END)
        self._text = ''

    def text(self) -> str:
        self._text += self._file.read()
        return self._text

    def lines(self) -> list[str]:
        return self.text().splitlines()

    def search(self, pattern: re.Pattern[str] | str) -> re.Match[str] | None:
        return re.search(pattern, self.text())

    def matches(self, pattern: str) -> bool:
        return self.search(pattern) is not None


@dataclasses.dataclass(frozen=True)
class Server:
    """A server of the lab, and where its files are."""

    id: str
    name: str
    domain: domain.Domain
    folder: pathlib.Path
    #: Whether its guest runs, and so writes.
    writes: bool = True

    @property
    def console(self) -> pathlib.Path:
        return self.folder / 'console.log'

    @property
    def disk(self) -> pathlib.Path:
        return self.folder / 'disk'

    def files(self) -> list[pathlib.Path]:
        """Return its disk, and the disk's backing file if there is one."""
        said = json.loads(process.output(
            'qemu-img', 'info', '-U', '-f', self.domain.disk_format(),
            '--output', 'json', self.disk))
        backing = said.get('full-backing-filename')
        return [self.disk, *([pathlib.Path(backing)] if backing else [])]

    def wait_up(self, timeout: float = BOOT_TIMEOUT) -> None:
        """Wait until its guest, which boots, writes and its agent answers."""
        Console(self.console).wait(BEAT, timeout)
        self.domain.wait_agent()

    def wait_beat(self, timeout: float = BOOT_TIMEOUT) -> None:
        """Wait until its guest writes."""
        Console(self.console, from_end=True).wait(BEAT, timeout)


def server(api: cloud.Cloud, server_id: str) -> Server:
    found = api.server(server_id)
    return Server(
        server_id, str(found['name']),
        domain.Domain(found['OS-EXT-SRV-ATTR:instance_name']),
        api.settings.instances / server_id)


def boot(api: cloud.Cloud, name: str, image_id: str, flavor: str,
         **options: cloud.Json) -> Server:
    """Create a server and wait until it is active."""
    server_id = api.new_server(name, image_id, flavor, **options)
    api.wait_server(server_id)
    return server(api, server_id)


def settle(paths: list[pathlib.Path]) -> None:
    """Give each way of uploading the same start.

    Nothing is left to be written back, and what will be read is in the page
    cache: runs that have to wait for the disk cannot be compared with others.
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
    """Return the bytes that a directory's files take on the disk."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                found = os.lstat(os.path.join(parent, name))
                total += found.st_blocks * BLOCK_BYTES
    return total


class Staged:
    """The most that a directory's files have taken since it was made."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder
        self._before = allocated(folder)
        self.peak = 0

    def look(self) -> None:
        self.peak = max(self.peak, allocated(self._folder) - self._before)


@dataclasses.dataclass(frozen=True)
class Beat:
    """The end of a round of the guest's writes."""

    number: int
    #: By the guest's clock and by the host's, in seconds.
    uptime: float
    seen: float


class Observer(contextlib.ExitStack):
    """Watches a server's writes and the snapshots directory, in a thread."""

    def __init__(self, target: Server, folder: pathlib.Path) -> None:
        super().__init__()
        self._server = target
        self._console = Console(target.console, from_end=True)
        self._staged = Staged(folder)
        self._next_look = 0.0
        self.beats: list[Beat] = []
        #: Whether the domain was persistent, at each look.
        self.persistent: list[bool] = []

    @property
    def staging_peak(self) -> int:
        return self._staged.peak

    def __enter__(self) -> Self:
        self.enter_context(repeat.repeated(self._sample, SAMPLE_SECONDS))
        self.push(self._leave)
        self._wait_beat()
        return self

    def _leave(self, kind: type[BaseException] | None,
               *error: object) -> None:
        """Wait for another write, unless something failed."""
        if kind is None:
            self._wait_beat()

    def _wait_beat(self) -> None:
        """Wait for a write, so that no gap is cut off."""
        if not self._server.writes:
            return
        count = len(self.beats)
        process.wait_for('a write of the guest',
                         lambda: len(self.beats) > count, BEAT_TIMEOUT,
                         self._server.console, SAMPLE_SECONDS)

    def _sample(self) -> None:
        now = time.monotonic()
        self._staged.look()
        for line in self._console.lines():
            match = BEAT.match(line)
            if match:
                self.beats.append(
                    Beat(int(match[1]), float(match[2]), now))
        if now >= self._next_look:
            self._next_look = now + DOMAIN_POLL_SECONDS
            self.persistent.append(self._server.domain.persistent())

    def gaps(self) -> tuple[float, ...]:
        """Return the seconds between writes, by the guest's clock."""
        return _gaps(beat.uptime for beat in self.beats)

    def writes(self) -> tuple[float, ...]:
        """Return when each write was seen, from the first one on."""
        return tuple(round(beat.seen - self.beats[0].seen, 3)
                     for beat in self.beats)

    def host_gap(self) -> float:
        """Return the longest by the host's clock, to SAMPLE_SECONDS.

        The guest's clock stands still while its CPU is stopped.
        """
        return max(_gaps(beat.seen for beat in self.beats), default=0.0)


def _gaps(times: collections.abc.Iterable[float]) -> tuple[float, ...]:
    return tuple(round(later - one, 3)
                 for one, later in itertools.pairwise(times))


def idle_gaps(target: Server, folder: pathlib.Path,
              seconds: float) -> tuple[float, ...]:
    """Return the gaps while nothing happens to the guest, in seconds."""
    with Observer(target, folder) as seen:
        time.sleep(seconds)
    return seen.gaps()


@dataclasses.dataclass(frozen=True)
class Run:
    """One upload, a driver's or curl's, and what it cost."""

    image_id: str
    status: str
    size: int
    #: From the image's creation in Glance until it is active.
    seconds: float
    staging_peak_bytes: int
    write_gap_seconds: float
    host_write_gap_seconds: float
    persistent: bool
    path: str | None = None
    consistency: str | None = None
    freeze_seconds: float | None = None
    #: When the clock started, by time.time().
    began_at: float = 0.0
    #: All gaps between the guest's writes, by its clock.
    write_gaps: tuple[float, ...] = ()
    #: When the guest wrote, by the host's clock, from the first write on.
    writes: tuple[float, ...] = ()


# Requests a snapshot of a server under a name; returns the image's id, and
# when the clock starts, by time.monotonic().
Request = collections.abc.Callable[[cloud.Cloud, Server, str],
                                   tuple[str, float]]


def by_command(api: cloud.Cloud, target: Server,
               name: str) -> tuple[str, float]:
    """Run the `openstack` command, as an operator does.

    The clock starts when Nova's API has created the image, to
    IMAGE_POLL_SECONDS: the start of the command itself does not count.
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


def _finish(child: 'subprocess.Popen[str]') -> None:
    """Let a command end in the background."""
    threading.Thread(target=child.communicate, daemon=True).start()


def by_api(api: cloud.Cloud, target: Server,
           name: str) -> tuple[str, float]:
    """Call Nova's API; the clock starts when it has answered."""
    return api.create_image(target.id, name), time.monotonic()


def snapshot(api: cloud.Cloud, target: Server, name: str,
             request: Request = by_command) -> Run:
    """Take a snapshot, and measure it.

    The clock stops when Glance has answered the upload, to SAMPLE_SECONDS;
    or when an image that it was told the place of is active.
    """
    conf = api.settings
    said = Said(conf.log('nova-compute'))
    requests = Said(conf.log('glance'))
    settle(target.files())
    with Observer(target, conf.snapshots) as seen:
        image_id, began = request(api, target, name)
        began_at = time.time() - (time.monotonic() - began)
        _wait_stored(api, image_id, requests)
        seconds = time.monotonic() - began
        image = _explained(
            api, lambda: api.wait_image(image_id, SNAPSHOT_TIMEOUT))
    api.wait_server(target.id)
    run = _run(seen, image, seconds, began_at)
    # Nova's own driver does not describe its images, and logs no freeze.
    match = said.search(CAPTURED)
    return run if match is None else dataclasses.replace(
        run, freeze_seconds=float(match['freeze']),
        path=run.path or match['path'],
        consistency=run.consistency or match['consistency'])


def _wait_stored(api: cloud.Cloud, image_id: str, requests: Said) -> None:
    """Wait until Glance has logged that it has the data of an image."""
    stored = rf'PUT /v2/images/{image_id}/file .*\(HTTP/1\.\d 204\)'
    located = rf'POST /v2/images/{image_id}/locations .*\(HTTP/1\.\d 202\)'
    end = time.monotonic() + SNAPSHOT_TIMEOUT
    look = time.monotonic() + ALIVE_POLL_SECONDS
    while not requests.matches(stored) and time.monotonic() < end:
        if time.monotonic() > look:
            look += ALIVE_POLL_SECONDS
            _explained(api, lambda: api.image(image_id))
        if requests.matches(located):
            # It answers first.
            _explained(api, lambda: api.wait_image(image_id, poll=0.05))
            return
        time.sleep(SAMPLE_SECONDS)


def _explained(api: cloud.Cloud,
               ask: collections.abc.Callable[[], cloud.Json]) -> cloud.Json:
    """Ask for an image; if it is gone, its snapshot has failed."""
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
        write_gap_seconds=max(seen.gaps(), default=0.0),
        host_write_gap_seconds=seen.host_gap(),
        persistent=all(seen.persistent),
        path=image.get('snapdriver_path'),
        consistency=image.get('snapdriver_consistency'),
        began_at=began_at, write_gaps=seen.gaps(), writes=seen.writes())


def put(api: cloud.Cloud, target: Server, name: str,
        path: pathlib.Path, disk_format: str = 'qcow2') -> Run:
    """Upload a file by curl while the guest writes, and measure it.

    The time is curl's own. The image is deleted at once.
    """
    image_id = api.new_image(name, disk_format)
    settle([path])
    with Observer(target, api.settings.snapshots) as seen:
        began_at = time.time()
        seconds = api.put(image_id, path)
    run = _run(seen, api.image(image_id), seconds, began_at)
    api.delete_image(image_id)
    return run

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

"""Start the stream process and read the image from it."""

from collections.abc import Iterator
from collections.abc import Sequence
import contextlib
import dataclasses
import fcntl
import json
import os
import pathlib
import select
import site
import subprocess
import sys
import types
from typing import Any
from typing import Self

from oslo_log import log as logging
from oslo_utils import units

import nova_snapdriver
from nova_snapdriver.capture import export
from nova_snapdriver import child
from nova_snapdriver import exception
from nova_snapdriver.stream import arguments

LOG = logging.getLogger(__name__)

CHUNK_SIZE = units.Mi
_PIPE_SIZE = units.Mi
_STATUS_BYTES = 64 * units.Ki

# What a process that writes into Ceph says at its end.
_ERRORS = {'refused': exception.DirectRefused,
           'differs': exception.VerifyFailed}

# It says every 5 s that it lives. A host that swaps may be slow, and a
# process that is stopped or frozen says nothing.
_SILENT_SECONDS = 60


@dataclasses.dataclass(frozen=True)
class Compression:
    """How to make a qcow2 image smaller; raw images ignore it.

    :param codec: ``zlib`` or ``zstd``; None for plain clusters
    :param threads: number of threads that compress; 0 means one for each CPU
    :param place: of the tables in the image, in clusters, instead of a
        prediction; 0 for a plain image
    :param harder_from: number of the read from which on to compress harder
    """

    codec: str | None = None
    threads: int = 0
    place: int | None = None
    harder_from: int | None = None


@dataclasses.dataclass(frozen=True)
class ProcessLimits:
    """Limits of the stream process.

    :param bandwidth: maximum read rate, in bytes per second; 0 means unlimited
    :param nice: of nice(1), 0 to 19
    """

    bandwidth: int = 0
    nice: int = 0

    def prefix(self) -> list[str]:
        """The words before a command that lower its priority."""
        return ['nice', '-n', str(self.nice)] if self.nice else []


def limits(conf: Any) -> ProcessLimits:
    """The limits that nova.conf sets."""
    group = conf.snapdriver
    return ProcessLimits(group.bandwidth_limit * units.Mi, group.stream_nice)


@dataclasses.dataclass(frozen=True)
class Target:
    """A new image in Ceph, to be written instead of sent.

    :param fsid: ID of the Ceph cluster
    :param user: of Ceph; empty for librados' default
    :param conf: path of ceph.conf; empty for librados' default
    :param stall_timeout: [snapdriver] upload_stall_timeout, seconds
    :param verify: read what was written, and compare it
    """

    fsid: str
    pool: str
    image: str
    user: str
    conf: str
    stall_timeout: int
    verify: bool


@dataclasses.dataclass(frozen=True)
class Request:
    """What to stream: an export, as an image of a format.

    :param algorithm: of the hash of the image; None for no hash
    :param target: where the process writes the image, instead of sending it
    """

    source: export.Export
    image_format: str
    algorithm: str | None
    compression: Compression = Compression()
    limits: ProcessLimits = ProcessLimits()
    target: Target | None = None

    def repeat(self, place: int | None,
               harder_from: int | None = None) -> 'Request':
        """Make the same image again, or one with another place.

        :param place: see :class:`Compression`
        """
        return dataclasses.replace(self, compression=dataclasses.replace(
            self.compression, place=place, harder_from=harder_from))

    def command(self) -> list[str]:
        # -P: a module in the current directory must not shadow a real one.
        return [*self.limits.prefix(),
                sys.executable, '-P', '-m', 'nova_snapdriver.stream',
                *arguments.build(self._arguments())]

    def _arguments(self) -> arguments.Arguments:
        """The options of the process, as values."""
        packing, ahead = self.compression, self.source.ahead
        told = arguments.Arguments(
            socket=self.source.socket, export=self.source.name,
            format=self.image_format,
            hash=self.algorithm or arguments.NO_HASH,
            compression=packing.codec, threads=packing.threads,
            place=-1 if packing.place is None else packing.place,
            harder_from=packing.harder_from, bandwidth=self.limits.bandwidth)
        if self.target is not None:
            told = _aimed(told, self.target)
        if ahead is None:
            return told
        return dataclasses.replace(
            told, spool=ahead.spool.directory, spool_limit=ahead.spool.limit,
            spool_reserve=ahead.spool.reserve, captured=ahead.captured)


def _aimed(told: arguments.Arguments,
           target: Target) -> arguments.Arguments:
    return dataclasses.replace(
        told, rbd_pool=target.pool, rbd_image=target.image,
        rbd_user=target.user, rbd_conf=target.conf,
        rbd_stall_timeout=target.stall_timeout, rbd_verify=target.verify)


# The child imports this package from the same place, installed or not.
_PACKAGES = str(pathlib.Path(nova_snapdriver.__file__).parent.parent)


def _environment() -> dict[str, str]:
    environment = child.environment()
    path = [_PACKAGES] if _PACKAGES not in _installed() else []
    path += filter(None, [os.environ.get('PYTHONPATH')])
    if path:
        environment['PYTHONPATH'] = os.pathsep.join(path)
    # By default each thread reserves an arena of 64 MiB, too much for the
    # address space to which the process limits itself.
    environment['MALLOC_ARENA_MAX'] = '2'
    return environment


def _installed() -> list[str]:
    """Where Python looks for packages by itself, after its own library.

    In PYTHONPATH they would come before it, and a backport among them (of
    typing, of dataclasses) would end the child.
    """
    return [*site.getsitepackages(), site.getusersitepackages()]


def _pipe(reading: contextlib.ExitStack,
          writing: contextlib.ExitStack) -> tuple[int, int]:
    """Make a pipe whose ends are closed with these stacks."""
    read, write = os.pipe()
    reading.callback(os.close, read)
    writing.callback(os.close, write)
    return read, write


def _start(request: Request, data: int,
           status: int) -> 'subprocess.Popen[bytes]':
    """Start the process, with pipes for the image and for its messages.

    :raises StreamFailed: it cannot be started
    """
    ahead = request.source.ahead
    try:
        return subprocess.Popen(
            request.command(), stdout=data, stderr=status,
            stdin=ahead.input if ahead else subprocess.DEVNULL,
            pass_fds=ahead.inherited if ahead else (),
            env=_environment(), cwd='/')
    except OSError as ex:
        raise exception.StreamFailed(
            reason='cannot start the stream process: %s' % ex) from ex


def _readable(files: Sequence[int], seconds: float) -> list[int]:
    """Which files can be read from, or are at their end; none in time."""
    if not hasattr(select, 'poll'):
        # eventlet removes it, and has a select() for any descriptor.
        return select.select(files, [], [], seconds)[0]
    poller = select.poll()
    for file in files:
        poller.register(file, select.POLLIN)
    return [file for file, _ in poller.poll(seconds * 1000)]


class StreamProcess:
    """A running stream process; a context manager that ends it.

    The pipes are plain file descriptors, read in the caller's thread: in
    eventlet mode that has to be a native one.

    :raises StreamFailed: it could not be started
    :raises EndedEarly: the export was ended before the upload
    """

    def __init__(self, request: Request) -> None:
        self._request = request
        self._lines = b''
        self._asked = False
        self._head = b''
        self._layout: dict[str, Any] | None = None
        self._harder_from: int | None = None
        self.digest: str | None = None
        #: From the disk, once all of the image is read.
        self.bytes_read = 0
        ahead = request.source.ahead
        if ahead is not None:
            ahead.begin()
        with (contextlib.ExitStack() as ours,
              contextlib.ExitStack() as childs):
            self._data, data = _pipe(ours, childs)
            self._status, status = _pipe(ours, childs)
            with contextlib.suppress(OSError):
                # More than pipe-user-pages-soft allows: the default will do.
                fcntl.fcntl(self._data, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
            self._process = _start(request, data, status)
            ours.callback(child.end, self._process)
            if ahead is not None:
                ahead.begun(self._process.pid)
            self._release = ours.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, exc_type: type[BaseException] | None,
                 exc: BaseException | None,
                 traceback: types.TracebackType | None) -> None:
        self.close()

    def kill(self) -> None:
        """Kill the process, from another thread.

        The thread that reads from it gets StreamFailed. One that writes an
        image in Ceph may let go of it first, until this is called again.
        """
        if self._request.target is not None and not self._asked:
            self._asked = True
            self._process.terminate()
            return
        self._process.kill()

    def close(self) -> None:
        """End the process and close its pipes. Idempotent."""
        self._release.close()

    def head(self, size: int) -> bytes:
        """The image's first bytes, before the first chunk is taken.

        :raises StreamFailed: the image cannot be laid out or read
        """
        buffer = memoryview(bytearray(size))
        while (missing := min(size, self.length) - len(self._head)) > 0:
            count = self._read(buffer[:missing])
            if not count:
                break                   # chunks() knows why
            self._head += buffer[:count]
        return self._head

    def chunks(self) -> Iterator[memoryview]:
        """The image's bytes, each chunk valid until the next one.

        :raises StreamFailed: the image is not whole; an iteration that ends
            without this has given all of it
        :raises Outgrown: more room than predicted is needed
        """
        buffer = memoryview(bytearray(CHUNK_SIZE))
        length, received = self.length, len(self._head)
        if self._head:
            yield memoryview(self._head)
        while count := self._read(buffer):
            received += count
            if received > length:
                raise exception.StreamFailed(
                    reason='the stream process gives more than the %d bytes '
                           'that it has laid out' % length)
            yield buffer[:count]
        result = self._event('done')
        code = self._status_at_end()
        if code or received != length or result['length'] != received:
            raise exception.StreamFailed(
                reason='the stream process ended with status %d after %d of '
                       '%d bytes' % (code, received, length))
        LOG.debug('Image streamed: %s', result)
        self.digest = result['digest'] or None
        self.bytes_read = result.get('read', 0)
        self._harder_from = result.get('harder_from')

    def written(self) -> Iterator[int]:
        """How many bytes of the image are in Ceph, until all are.

        :raises StreamFailed: the disk could not be read
        :raises DirectRefused: Ceph failed
        :raises VerifyFailed: Ceph gives something else than was written
        """
        length, last = self.length, False
        while not last:
            event = self._event('written')
            last = event['last']
            yield min(int(event['bytes']), length)
        result = self._event('done')
        if self._status_at_end() or result['length'] != length:
            raise exception.StreamFailed(
                reason='the stream process wrote %s of %d bytes' % (
                    result['length'], length))
        self.bytes_read = result.get('read', 0)

    @property
    def first(self) -> bytes:
        """The first bytes of an image that is written into Ceph.

        :raises StreamFailed: the disk could not be read
        """
        self._laid_out()
        return self._head

    def _read(self, buffer: memoryview) -> int:
        """Bytes of the image; 0 at its end."""
        said = [self._status]
        while self._data not in self._wait(self._data, *said):
            # Drained, or a process with much to say would wait for us.
            if not self._listen():
                said = []
        return os.readv(self._data, [buffer])

    def _wait(self, *files: int) -> list[int]:
        """Wait until one of the pipes can be read from, or is closed.

        :raises StreamFailed: none can, for too long
        """
        ready = _readable(files, _SILENT_SECONDS)
        if not ready:
            raise exception.StreamFailed(
                reason='the stream process has given no sign of life for %d '
                       's. It is stopped or frozen, or the host is out of '
                       'memory' % _SILENT_SECONDS)
        return ready

    def _status_at_end(self) -> int:
        try:
            return self._process.wait(_SILENT_SECONDS)
        except subprocess.TimeoutExpired as ex:
            raise exception.StreamFailed(
                reason='the stream process does not end') from ex

    # Not a cached_property: before Python 3.12 all objects of a class share
    # its lock, and one snapshot would wait for the sample of another.
    @property
    def length(self) -> int:
        """The length of the image in bytes, once the disk is mapped.

        With compression, that takes a sample of its data.

        :raises StreamFailed: the image could not be laid out
        """
        return int(self._laid_out()['length'])

    @property
    def again(self) -> Request:
        """The request that makes the same image again.

        To the byte, if this has given all of it.
        """
        return self._request.repeat(self._laid_out().get('place'),
                                    self._harder_from)

    def _laid_out(self) -> dict[str, Any]:
        """What the process says of the layout of the image."""
        if self._layout is None:
            self._layout = self._event('layout')
            if self._request.target is not None:
                # What is in a guest's disk is not for the log.
                self._head = bytes.fromhex(self._layout.pop('head', ''))
            LOG.info('Image laid out: %s', self._layout)
            if self._layout.get('plain') and self._request.compression.codec:
                LOG.warning('The image is not compressed: %s',
                            self._layout['plain'])
        return self._layout

    def _event(self, expected: str) -> dict[str, Any]:
        """The next event; other lines go into the message of an error."""
        noise = []
        while (line := self._line()) is not None:
            try:
                event = json.loads(line)
                name = event.pop('event')
            except (ValueError, TypeError, KeyError, AttributeError):
                noise.append(line)
                continue
            if name == expected:
                return dict(event)
            if name in _ERRORS:
                raise _ERRORS[name](reason=event['message'])
            if name == 'outgrown':
                raise exception.Outgrown(event['place'],
                                         reason=event['message'])
            if name == 'alive':
                continue
            noise.append(event.get('message', line))
        raise exception.StreamFailed(
            reason=' '.join(noise[-5:]) or 'the stream process died')

    def _line(self) -> str | None:
        """The next line of standard error; None at its end."""
        while b'\n' not in self._lines:
            self._wait(self._status)
            if not self._listen():
                return None
        line, self._lines = self._lines.split(b'\n', 1)
        return line.decode(errors='replace')

    def _listen(self) -> bool:
        """Read from standard error; returns False at its end."""
        more = os.read(self._status, _STATUS_BYTES)
        self._lines = (self._lines + more)[-_STATUS_BYTES:]
        return bool(more)

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

"""Run ahead of a pipe's reader, with a private file for what it lags behind.

An image leaves at the speed of the pipe's reader. From the order to run ahead
on, the disk is read at its own speed: what the pipe has no room for goes into
a temporary file, the spool, and from there into the pipe, in order. The order
is not taken back. While the pipe has room, there is no file.

The spool saves time and is needed by nobody: all spools of a host together
leave half of the space that they found beyond the reserve to the guests, as
each looks at it while it grows.
"""

import collections
import errno
import os
import select
import tempfile
import threading
from typing import BinaryIO

from nova_snapdriver.stream import writeback
from oslo_utils import units

# Slices of this are kept as a length, and take no room in the spool.
ZEROS = memoryview(bytes(units.Mi))

_CHUNK = 512 * units.Ki

# A disk of alternating data and zeros must not fill the memory with the list
# of its runs. Past this many, zeros are stored like other bytes.
_MAX_RUNS = 64 * units.Ki

# The spool takes a tenth of what is free beyond the reserve or, with a limit
# given, up to half of it: the guests need the rest.
SHARE = 10
MOST = 2

# Bytes stored between two looks at the free space.
_LOOK = 4 * units.Mi

_FULL = (errno.ENOSPC, errno.EDQUOT)


def room(directory: str, limit: int, reserve: int) -> int:
    """The maximum size of a spool, in bytes.

    :param limit: bytes; negative for a tenth of what is free
    :param reserve: bytes that stay free in the directory's file system
    """
    free = max(0, _free(directory) - reserve)
    return free // SHARE if limit < 0 else min(limit, free // MOST)


def floor(directory: str, reserve: int) -> int:
    """The free space, in bytes, below which a spool takes no more."""
    return reserve + max(0, _free(directory) - reserve) // MOST


def _free(where: str | int) -> int:
    """Free bytes in the file system of a path or an open file."""
    found = os.statvfs(where)
    return found.f_bavail * found.f_frsize


class Outlet:
    """A pipe, with a spool for what it does not take.

    One thread writes and closes.

    :param pipe: file descriptor, made non-blocking
    :param order: file descriptor that is readable once the order is given. It
        is not read: the process that follows this one needs the order, too.
    :param directory: for the spool
    :param limit: maximum size of the spool in bytes, see :func:`room`
    :param reserve: bytes that stay free in the directory's file system
    """

    def __init__(self, pipe: int, order: int, directory: str, limit: int,
                 reserve: int) -> None:
        os.set_blocking(pipe, False)
        self._pipe = pipe
        self._order = order
        self._directory = directory
        self._limit = limit
        self._reserve = reserve
        self._spool: _Spool | None = None

    @property
    def ahead(self) -> bool:
        """Whether it runs ahead of the pipe's reader."""
        return self._spool is not None

    def write(self, content: memoryview) -> None:
        """Send bytes, or spool them, once one of both is possible.

        :raises OSError: the pipe's reader is gone, or the spool fails
        """
        if self._spool is None:
            content = self._send(content)
        if content:
            assert self._spool is not None
            self._spool.put(content)

    def _send(self, content: memoryview) -> memoryview:
        """Write to the pipe; returns what is left for a spool, made now."""
        while content and self._spool is None:
            try:
                content = content[os.write(self._pipe, content):]
            except BlockingIOError:
                if _waited(self._pipe, self._order):
                    self._spool = self._make()
        return content

    def _make(self) -> '_Spool':
        return _Spool(self._pipe, self._open(),
                      room(self._directory, self._limit, self._reserve),
                      floor(self._directory, self._reserve))

    def _open(self) -> BinaryIO:
        # Unnamed from the start where the file system can do that, and private
        # to the user whatever the umask.
        return tempfile.TemporaryFile(dir=self._directory, buffering=0)

    def close(self) -> None:
        """Wait until the pipe has taken all.

        :raises OSError: the pipe's reader is gone, or the spool fails
        """
        if self._spool is not None:
            self._spool.close()


def _waited(pipe: int, order: int) -> bool:
    """Wait for room in a pipe or for the order; returns if it is given."""
    poller = select.poll()
    poller.register(pipe, select.POLLOUT)
    poller.register(order, select.POLLIN)
    ready = dict(poller.poll())
    return bool(ready.get(order, 0) & select.POLLIN)


class _Spool:
    """A ring of bytes in a file, emptied into a pipe by a thread.

    :param limit: size of the ring, in bytes
    :param floor: free bytes of the file system to leave to others
    """

    def __init__(self, pipe: int, file: BinaryIO, limit: int,
                 floor: int = 0) -> None:
        self._pipe = pipe
        self._file = file
        self._writeback = writeback.Writeback(file.fileno())
        # A smaller ring would be slower than none.
        self._limit = max(limit, _CHUNK)
        self._floor = floor
        self._unseen = _LOOK            # bytes stored since the last look
        self._put = self._got = 0       # bytes of data in the file, ever
        # In order: the length of each run, and whether it is in the file.
        self._runs: collections.deque[tuple[int, bool]] = collections.deque()
        self._changed = threading.Condition()
        self._closed = False
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def put(self, content: memoryview) -> None:
        """Spool bytes, once there is room for them.

        :raises OSError: the pipe's reader is gone, or the spool fails
        """
        if content.obj is ZEROS.obj and len(self._runs) < _MAX_RUNS:
            self._note(len(content), False)
            return
        while content:
            count = self._store(content[:self._wait_for_room()])
            content = content[count:]
            if count:
                self._note(count, True)
            else:
                # The disk is full, or others need it. Once the spool is
                # empty, these bytes are next in order.
                self._empty()
                self._send(content)
                return

    def close(self) -> None:
        """Wait until the pipe has taken all.

        :raises OSError: the pipe's reader is gone, or the spool fails
        """
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()
        self._check()
        self._writeback.check()

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def _wait_for_room(self) -> int:
        """Wait for room; returns the bytes that fit in one piece."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._error or self._put - self._got < self._limit)
            self._check()
            return min(self._limit - (self._put - self._got),
                       self._limit - self._put % self._limit)

    def _store(self, content: memoryview) -> int:
        if self._is_short():
            return 0
        at = self._put % self._limit
        try:
            count = os.pwrite(self._file.fileno(), content, at)
        except OSError as ex:
            if ex.errno not in _FULL:
                raise
            return 0
        self._writeback.wrote(at, count)
        self._unseen += count
        return count

    def _is_short(self) -> bool:
        """Whether others need the space; looks every few MiB."""
        if self._unseen < _LOOK:
            return False
        if _free(self._file.fileno()) < self._floor:
            return True
        self._unseen = 0
        return False

    def _empty(self) -> None:
        """Wait until the spool is empty, and begin anew."""
        with self._changed:
            self._changed.wait_for(lambda: self._error or not self._runs)
            self._check()
            self._put = self._got = 0
            os.ftruncate(self._file.fileno(), 0)

    def _note(self, length: int, stored: bool) -> None:
        with self._changed:
            self._check()
            if stored:
                self._put += length
            # The first run is the one that is being sent.
            if len(self._runs) > 1 and self._runs[-1][1] == stored:
                length += self._runs.pop()[0]
            self._runs.append((length, stored))
            self._changed.notify_all()

    # In its thread

    def _run(self) -> None:
        try:
            while (run := self._first()) is not None:
                self._send_run(*run)
        except OSError as ex:
            with self._changed:
                self._error = ex
                self._changed.notify_all()

    def _first(self) -> tuple[int, bool] | None:
        """The run to be sent next; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._runs or self._closed)
            return self._runs[0] if self._runs else None

    def _send_run(self, length: int, stored: bool) -> None:
        while length:
            content = self._load(length) if stored else ZEROS[:length]
            length -= len(content)
            self._send(content)
            with self._changed:
                if stored:
                    self._got += len(content)
                if not length:
                    self._runs.popleft()
                self._changed.notify_all()

    def _load(self, length: int) -> memoryview:
        at = self._got % self._limit
        content = os.pread(self._file.fileno(),
                           min(length, _CHUNK, self._limit - at), at)
        if not content:
            raise OSError(errno.EIO, 'the spool file ends early')
        writeback.free(self._file.fileno(), at, len(content))
        return memoryview(content)

    def _send(self, content: memoryview) -> None:
        while content:
            try:
                content = content[os.write(self._pipe, content):]
            except BlockingIOError:
                poller = select.poll()
                poller.register(self._pipe, select.POLLOUT)
                poller.poll()

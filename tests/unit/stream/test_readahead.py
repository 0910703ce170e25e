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

"""The spool, with a pipe that takes what the test takes from it."""

import errno
import os
import threading
from unittest import mock

import pytest

from nova_snapdriver.stream import readahead

SECONDS = 30
MIB = 1 << 20
DATA = memoryview(os.urandom(3 * MIB))


class Pipes:
    """A pipe, and the one for the order."""

    def __init__(self):
        self.reading, self.pipe = os.pipe()
        self.ordering, self._order = os.pipe()

    def order(self):
        os.write(self._order, b'\n')

    def drain(self, length):
        found = bytearray()
        while len(found) < length:
            found += os.read(self.reading, length - len(found))
        return bytes(found)

    def close(self):
        for descriptor in (self.reading, self.pipe, self.ordering,
                           self._order):
            os.close(descriptor)


@pytest.fixture
def pipes():
    made = Pipes()
    yield made
    made.close()


def outlet(pipes, tmp_path, limit=16 * MIB):
    return readahead.Outlet(pipes.pipe, pipes.ordering, str(tmp_path), limit,
                            0)


class Writing:
    """Writes in a thread, and closes."""

    def __init__(self, target, *contents):
        self.error = None
        self.kept = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(target, contents), daemon=True)
        self._thread.start()

    def _run(self, target, contents):
        try:
            for content in contents:
                target.write(content)
            self.kept.set()
            target.close()
        except OSError as ex:
            self.error = ex

    def join(self):
        self._thread.join(SECONDS)
        assert not self._thread.is_alive()


def test_without_an_order_it_waits_for_the_pipe(pipes, tmp_path):
    writing = Writing(outlet(pipes, tmp_path), DATA)
    assert not writing.kept.wait(0.3)
    assert pipes.drain(len(DATA)) == DATA
    writing.join()


def test_order_wakes_who_waits_for_the_pipe(pipes, tmp_path):
    writing = Writing(outlet(pipes, tmp_path), DATA)
    assert not writing.kept.wait(0.3)
    pipes.order()
    assert writing.kept.wait(SECONDS)
    assert not any(tmp_path.iterdir())      # the file has no name
    assert pipes.drain(len(DATA)) == DATA
    writing.join()


def test_order_is_for_those_who_come_later_too(pipes, tmp_path):
    pipes.order()
    for _ in range(2):
        writing = Writing(outlet(pipes, tmp_path), DATA)
        assert writing.kept.wait(SECONDS)
        assert pipes.drain(len(DATA)) == DATA
        writing.join()


def test_more_than_it_may_keep_waits(pipes, tmp_path):
    pipes.order()
    writing = Writing(outlet(pipes, tmp_path, MIB), DATA, DATA[:100], DATA)
    assert not writing.kept.wait(0.3)
    expected = bytes(DATA) + bytes(DATA[:100]) + bytes(DATA)
    assert pipes.drain(len(expected)) == expected
    writing.join()


def test_zeros_take_no_room(pipes, tmp_path):
    pipes.order()
    contents = [DATA[:100], *[readahead.ZEROS] * 40, DATA[:7],
                readahead.ZEROS[:5]]
    writing = Writing(outlet(pipes, tmp_path, MIB), *contents)
    assert writing.kept.wait(SECONDS)
    expected = b''.join(map(bytes, contents))
    assert pipes.drain(len(expected)) == expected
    writing.join()


def test_full_disk_is_no_error(pipes, tmp_path):
    pipes.order()
    room = [MIB]
    real = os.pwrite

    def pwrite(file, content, offset):
        if offset >= room[0]:
            raise OSError(errno.ENOSPC, 'full')
        return real(file, content[:room[0] - offset], offset)

    with mock.patch.object(readahead.os, 'pwrite', pwrite):
        writing = Writing(outlet(pipes, tmp_path), DATA, DATA)
        assert not writing.kept.wait(0.3)
        room[0] = 0                     # not even a byte
        assert pipes.drain(2 * len(DATA)) == bytes(DATA) * 2
        writing.join()
    assert writing.error is None


def test_pipe_that_nobody_reads_ends_it(pipes, tmp_path):
    pipes.order()
    writing = Writing(outlet(pipes, tmp_path), DATA)
    assert writing.kept.wait(SECONDS)
    os.close(pipes.reading)
    writing.join()
    pipes.reading = os.open(os.devnull, os.O_RDONLY)
    assert isinstance(writing.error, BrokenPipeError)


@pytest.mark.parametrize('limit, reserve, expected', (
    (-1, 0, 100), (-1, 500, 50), (-1, 2000, 0), (300, 0, 300), (800, 0, 500),
    (0, 0, 0)))
def test_room(limit, reserve, expected, tmp_path):
    free = mock.Mock(f_bavail=10, f_frsize=100)
    with mock.patch.object(readahead.os, 'statvfs', return_value=free):
        assert readahead.room(str(tmp_path), limit, reserve) == expected


def test_floor_leaves_half_to_the_guests(tmp_path):
    free = mock.Mock(f_bavail=10, f_frsize=100)
    with mock.patch.object(readahead.os, 'statvfs', return_value=free):
        assert readahead.floor(str(tmp_path), 0) == 500
        assert readahead.floor(str(tmp_path), 400) == 700
        assert readahead.floor(str(tmp_path), 2000) == 2000


def test_spool_stops_where_others_need_the_space(pipes, tmp_path):
    """And goes on when there is some again."""
    pipes.order()
    free = mock.Mock(f_bavail=100 * MIB, f_frsize=1)
    with mock.patch.object(readahead.os, 'statvfs', return_value=free):
        target = outlet(pipes, tmp_path, 64 * MIB)
        target.write(DATA)
        free.f_bavail = 49 * MIB
        writing = Writing(target, DATA, DATA, DATA)
        assert not writing.kept.wait(0.3)
        assert pipes.drain(2 * len(DATA)) == bytes(DATA) * 2
        free.f_bavail = 100 * MIB
        assert pipes.drain(2 * len(DATA)) == bytes(DATA) * 2
        writing.join()
    assert writing.error is None

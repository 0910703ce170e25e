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

import errno
import os
import threading
from unittest import mock

import pytest

from nova_snapdriver.stream import readahead
from nova_snapdriver.stream import writeback

MIB = 1 << 20
LAG, STEP = 3 * MIB, MIB


@pytest.fixture(autouse=True)
def little(monkeypatch):
    monkeypatch.setattr(writeback, '_LAG', LAG)
    monkeypatch.setattr(writeback, '_STEP', STEP)


@pytest.fixture
def file(tmp_path):
    descriptor = os.open(tmp_path / 'file', os.O_CREAT | os.O_RDWR)
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def synced(monkeypatch):
    """The ranges that were synced, as (offset, length)."""
    found = []
    real = writeback._sync

    def sync(descriptor, offset, length):
        real(descriptor, offset, length)
        found.append((offset, length))

    monkeypatch.setattr(writeback, '_sync', sync)
    return found


def write(file, pieces):
    """Write pieces, given as (offset, length)."""
    writes = writeback.Writeback(file)
    for offset, length in pieces:
        os.pwrite(file, bytes(length), offset)
        writes.wrote(offset, length)
    writes.check()
    writes.close()


def in_pieces(length, size):
    return [(at, min(size, length - at)) for at in range(0, length, size)]


@pytest.mark.parametrize('size', (1000, 20_001, MIB // 2, 3 * MIB))
def test_all_but_the_latest_is_on_the_disk(size, file, synced):
    write(file, in_pieces(20 * MIB, size))
    end = 0
    for offset, length in synced:
        assert offset == end            # in order, and nothing twice
        assert length < STEP + size
        end += length
    assert 20 * MIB - end <= LAG + STEP + size
    # Not a system call for each of the pieces.
    assert len(synced) <= 20


def test_little_is_left_to_the_kernel(file, synced):
    write(file, in_pieces(LAG + STEP, 1000))
    assert not synced


def test_ring_goes_round(file, synced):
    pieces = in_pieces(5 * MIB, MIB // 2)
    write(file, pieces * 3)
    ranges = {offset + at for offset, length in synced
              for at in range(0, length, MIB // 2)}
    assert ranges == {offset for offset, _ in pieces}
    assert all(offset + length <= 5 * MIB for offset, length in synced)


def test_next_step_waits_for_the_one_before(file):
    begun, go = threading.Semaphore(0), threading.Semaphore(0)

    def sync(descriptor, offset, length):
        begun.release()
        go.acquire()

    with mock.patch.object(writeback, '_sync', sync):
        writing = threading.Thread(
            target=write, args=(file, in_pieces(LAG + 3 * STEP, STEP)))
        writing.start()
        assert begun.acquire(timeout=10)
        assert not begun.acquire(timeout=0.2)
        assert writing.is_alive()
        for _ in range(2):
            go.release()
        writing.join(10)
        assert not writing.is_alive()
    assert begun.acquire(timeout=0)


def test_what_the_disk_does_not_take_is_an_error():
    reading, writing = os.pipe()        # has no ranges
    writes = writeback.Writeback(writing)
    with pytest.raises(OSError) as caught:
        for offset, length in in_pieces(LAG + 3 * STEP, STEP):
            writes.wrote(offset, length)
    assert caught.value.errno == errno.ESPIPE
    with pytest.raises(OSError):
        writes.check()
    writes.close()
    os.close(reading)
    os.close(writing)


@pytest.fixture
def broken(monkeypatch):
    def sync(descriptor, offset, length):
        raise OSError(errno.EIO, 'the disk is broken')

    monkeypatch.setattr(writeback, '_sync', sync)


def test_spool_that_is_lost_is_no_image(broken, tmp_path):
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with open(tmp_path / 'spool', 'w+b', buffering=0) as file:
        kept = readahead._Spool(writing, file, 100 * MIB)
        reader = threading.Thread(
            target=lambda: [None for _ in iter(lambda: os.read(reading, MIB),
                                               b'')])
        reader.start()
        with pytest.raises(OSError, match='broken'):
            for _ in range(6):
                kept.put(memoryview(bytes(MIB)))
            kept.close()
        os.close(writing)
        reader.join(10)
    os.close(reading)


def allocated(file):
    os.fsync(file)
    return os.fstat(file).st_blocks * 512


def test_what_is_freed_takes_no_room(file):
    os.pwrite(file, b'x' * 4 * MIB, 0)
    writeback.free(file, MIB, 2 * MIB)
    assert allocated(file) <= 2 * MIB + 64 * 1024
    # Its neighbours stay.
    assert os.pread(file, 4 * MIB, 0) == (
        b'x' * MIB + bytes(2 * MIB) + b'x' * MIB)


def test_file_without_holes_stays_as_it_is():
    reading, writing = os.pipe()
    writeback.free(writing, 0, MIB)
    os.close(reading)
    os.close(writing)


def test_spool_leaves_the_disk_as_it_is_sent(tmp_path):
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with open(tmp_path / 'spool', 'w+b', buffering=0) as file:
        kept = readahead._Spool(writing, file, 100 * MIB)
        for _ in range(20):
            kept.put(memoryview(b'x' * MIB))
        took = 0
        while took < 10 * MIB:
            took += len(os.read(reading, MIB))
        assert allocated(file.fileno()) <= 10 * MIB + 64 * 1024
        closing = threading.Thread(target=kept.close)
        closing.start()
        while took < 20 * MIB:
            took += len(os.read(reading, MIB))
        closing.join(10)
        assert not closing.is_alive()
        assert allocated(file.fileno()) <= 64 * 1024
    os.close(reading)
    os.close(writing)

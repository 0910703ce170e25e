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

"""Several snapshots read ahead into one small file system."""

import os
import subprocess
import sys
import threading
import time

import pytest

from lab.openstack import process
from nova_snapdriver.capture import live
from nova_snapdriver.capture import space
from nova_snapdriver import exception
from tests.functional import captures

MIB = 1 << 20
SIZE, RESERVE, SPOOLS = 256 * MIB, 32 * MIB, 5
# Between two looks at the file system each may store so much.
STEP = 4 * MIB
HALF = RESERVE + (SIZE - RESERVE) // 2
# A file system of the test's own, that nobody else sees.
MOUNT = 'mount -t tmpfs -o size="$1" room "$2" && exec "$3" - "$2" "$4"'
PROGRAM = f"""
import multiprocessing, os, sys, threading, time
from nova_snapdriver.stream import readahead
directory, kind = sys.argv[1:]
start = getattr(multiprocessing.get_context('fork')
                if kind == 'Process' else threading, kind)
ordering, order = os.pipe()
os.write(order, b'.')
pipes = [os.pipe() for _ in range({SPOOLS})]
piece = memoryview(os.urandom({MIB}))
def fill(pipe):
    outlet = readahead.Outlet(pipe, ordering, directory, {SIZE}, {RESERVE})
    for _ in range(100):
        outlet.write(piece)
    outlet.close()
    os.close(pipe)
def free():
    found = os.statvfs(directory)
    return found.f_bavail * found.f_frsize
writers = [start(target=fill, args=(pipe[1],)) for pipe in pipes]
for writer in writers:
    writer.start()
if kind == 'Process':
    for pipe in pipes:
        os.close(pipe[1])
least = before = free()
unchanged = 0
# On a busy machine the spools may not have begun by then.
while unchanged < 20 or least >= {HALF + SPOOLS * STEP}:
    time.sleep(0.05)
    unchanged = unchanged + 1 if free() == before else 0
    before = free()
    least = min(least, before)
def drain(pipe, counts):
    count = 0
    while data := os.read(pipe, 1 << 20):
        count += len(data)
    counts.append(count)
counts = []
drains = [threading.Thread(target=drain, args=(pipe[0], counts))
          for pipe in pipes]
for thread in drains:
    thread.start()
for one in drains + writers:
    one.join()
print(least, free(), *counts)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason='mounts a file system')
@pytest.mark.parametrize('kind, leaves', (
    ('Thread', HALF - SPOOLS * STEP),
    # These begin one after another: what a later one finds is less.
    ('Process', RESERVE)))
def test_spools_of_all_leave_half_to_the_guests(kind, leaves, tmp_path):
    """Of one service, or of several and of the command beside them."""
    done = subprocess.run(
        ['unshare', '--mount', 'sh', '-c', MOUNT, 'sh', str(SIZE),
         str(tmp_path), sys.executable, kind], input=PROGRAM, text=True,
        capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    least, last, *counts = map(int, done.stdout.split())
    assert least >= leaves
    # They did read ahead, lost nothing, and gave all of it back.
    assert least < HALF + SPOOLS * STEP
    assert counts == [100 * MIB] * SPOOLS
    assert last == SIZE


@pytest.fixture
def small(area):
    """A small file system, which libvirt's QEMU sees, too."""
    path = area / 'small'
    path.mkdir()
    subprocess.run(['mount', '-t', 'tmpfs', '-o', 'mode=711,size=%d' %
                    (3 * RESERVE), 'small', path], check=True)
    yield path
    subprocess.run(['umount', path], check=True)


class Captured(threading.Thread):
    """A live capture that lasts until it is released, or its job ends."""

    def __init__(self, guest, directory):
        super().__init__(daemon=True)
        self.guest = guest
        self.begun = threading.Event()
        self.released = threading.Event()
        self.error = None
        self._request = captures.request_of(
            guest.wrapped(), directory, limits=space.Limits(RESERVE, 0))

    def run(self):
        try:
            with live.capture(self._request):
                self.begun.set()
                while not self.released.is_set():
                    # As a reader of the export notices.
                    assert self.guest.has_job(), 'the job has ended'
                    time.sleep(0.2)
        except BaseException as ex:
            self.error = ex


def test_captures_of_five_guests_keep_the_reserve(area, small, start_domain):
    """The one that uses most ends, and no guest notices."""
    guests = []
    for number in range(5):
        disk = area / ('disk%d' % number)
        disk.write_bytes(bytes([number + 1]) * 48 * MIB)
        guests.append(start_domain((disk, 'raw')))
    captured = [Captured(guest, small) for guest in guests]
    for one in captured:
        one.start()
        assert one.begun.wait(60), one.error
    for number in range(14):
        for which, guest in enumerate(guests):
            # The first one overwrites four times as much.
            count = 1 if which else 4
            guest.write(9, number * count % 48 * MIB, count * MIB)
        # Nobody overwrites more until there is room again.
        process.wait_for('the reserve', lambda: space.free(
            str(small)) >= RESERVE, 120)
    assert isinstance(captured[0].error, exception.ScratchExhausted)
    for one in captured[1:]:
        assert one.error is None and one.guest.has_job()
        one.released.set()
    for one in captured:
        one.join(60)
        assert one is captured[0] or one.error is None
        one.guest.assert_untouched()
    assert list(small.iterdir()) == []

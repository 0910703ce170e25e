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

"""A guest that writes all the time, and a Glance that takes its time."""

import contextlib
import os
import threading
import time

import pytest

from nova_snapdriver import exception
from nova_snapdriver.transfer import process
from tests.functional import nbd_servers
from tests.functional import snapshots

MIB = 1 << 20
DISK_BYTES = 48 * MIB
CONTENT = b'snapdriver' * (DISK_BYTES // 10)
CONTENT += bytes(DISK_BYTES - len(CONTENT))
# More than sockets and pipes hold, and so much of it that it takes seconds.
RATE = 8 * MIB


@pytest.fixture
def guest(area, start_domain):
    disk = area / 'disk.raw'
    disk.write_bytes(CONTENT)
    return start_domain((disk, 'raw'))


@pytest.fixture
def under_pressure(conf):
    conf('read_ahead_limit', 1024, 'snapdriver')
    conf('read_ahead_threshold', 1, 'snapdriver')


class Writer:
    """Overwrites the disk, piece by piece, and sees when the job ends."""

    def __init__(self, guest, area):
        self._guest = guest
        self._area = area
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.job_ended = self.job_took = self.took = None
        self.scratch_peak = 0
        self.left = None
        self.ended = threading.Event()

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exc):
        self._stopping.set()
        self._thread.join()

    def _run(self):
        at = 0
        while not self._stopping.is_set():
            self._guest.write(at // MIB % 255, at % DISK_BYTES, MIB // 2)
            at += MIB
            self._look()
            time.sleep(0.1)

    def _look(self):
        found = [path for path in self._area.glob('snapshots/*/*')]
        for path in found:
            with contextlib.suppress(FileNotFoundError):
                self.scratch_peak = max(self.scratch_peak,
                                        path.stat().st_blocks * 512)
        if self.job_ended is None and not self._guest.has_job():
            self.job_ended = time.monotonic()
            self.left = [path.name for path in found if path.exists()]
            self.ended.set()


def take(snap_driver, guest, area, on_upload=lambda: None):
    """Take a snapshot while the guest writes: the writer, the upload's end."""
    snapshot = snapshots.Snapshot(snap_driver, guest)
    writer, update = Writer(guest, area), snapshot._update_task_state
    with contextlib.ExitStack() as writing:

        def begin(task_state, expected_state='image_snapshot'):
            update(task_state, expected_state)
            if task_state == 'image_uploading':
                writing.enter_context(writer)
                on_upload()

        snapshot._update_task_state = begin
        began = time.monotonic()
        try:
            snapshot.take()
        finally:
            writer.took = time.monotonic() - began
            if writer.job_ended is not None:
                writer.job_took = writer.job_ended - began
    print('snapshot: %.1f s' % writer.took)
    return writer


def test_job_ends_at_the_speed_of_the_disk(under_pressure, snap_driver,
                                           glance, guest, area):
    glance.rate = RATE
    writer = take(snap_driver, guest, area)
    assert glance.data == CONTENT
    assert glance.image['status'] == 'active'
    print('job: %.1f s, scratch %.1f MiB' %
          (writer.job_took, writer.scratch_peak / MIB))
    assert writer.took > DISK_BYTES / RATE
    assert writer.job_took < writer.took / 2
    # The spool has no name.
    assert 'scratch' not in writer.left
    snapshots.assert_clean(guest, area)


def test_job_is_as_long_as_the_upload_without(conf, snap_driver, glance, guest,
                                              area):
    conf('read_ahead_limit', 0, 'snapdriver')
    conf('read_ahead_threshold', 1, 'snapdriver')
    glance.rate = RATE
    writer = take(snap_driver, guest, area)
    assert glance.data == CONTENT
    assert writer.job_took is None or writer.job_took > 0.8 * writer.took
    snapshots.assert_clean(guest, area)


def test_upload_that_breaks_off_after_the_end(under_pressure, snap_driver,
                                              glance, guest, area):
    """It is never sent from the disk as it is now."""
    glance.rate = RATE
    glance.faults = ['break']
    with pytest.raises(exception.EndedEarly, match='read_ahead_limit'):
        take(snap_driver, guest, area)
    assert glance.deleted and not any(glance.uploads)
    snapshots.assert_clean(guest, area)


def test_hash_that_would_need_another_look(under_pressure, snap_driver, glance,
                                           guest, area):
    glance.rate = RATE
    glance.algorithm = 'sha256'
    with pytest.raises(exception.EndedEarly, match='uses another hash'):
        take(snap_driver, guest, area)
    assert glance.deleted
    snapshots.assert_clean(guest, area)


def test_server_that_is_stopped_after_the_end(under_pressure, snap_driver,
                                              glance, guest, area):
    """Its disk has been read: what it does is its own affair."""
    glance.rate = RATE / 2
    stopper = None

    def stop(writer):
        assert writer.ended.wait(60)
        writer._stopping.set()
        writer._thread.join()
        guest.domain.destroy()

    def begin():
        nonlocal stopper
        stopper = threading.Thread(target=stop, args=(writers[0],))
        stopper.start()

    writers = []
    real = Writer.__enter__

    def enter(writer):
        writers.append(writer)
        return real(writer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Writer, '__enter__', enter)
        take(snap_driver, guest, area, begin)
    stopper.join()
    assert not guest.domain.isActive()
    assert glance.data == CONTENT
    guest.domain.create()
    snapshots.assert_clean(guest, area)


@pytest.mark.parametrize('limits, seconds', (
    (process.ProcessLimits(bandwidth=16 * MIB), 2),
    (process.ProcessLimits(nice=7), 0)))
def test_limits(limits, seconds):
    with nbd_servers.nbdkit('pattern', '32M') as source:
        request = process.Request(source, 'raw', 'sha256', limits=limits)
        began = time.monotonic()
        with process.StreamProcess(request) as running:
            assert running.length == 32 * MIB
            pid = running._process.pid
            # nice(1) adds to what this process has.
            assert os.getpriority(os.PRIO_PROCESS, pid) == min(
                19, os.getpriority(os.PRIO_PROCESS, 0) + limits.nice)
            for _ in running.chunks():
                pass
        assert time.monotonic() - began > 0.9 * seconds

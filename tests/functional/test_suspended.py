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

"""The cold path on guests that run: suspended, copied, and started again."""

import pathlib
import shutil
import signal
import time
from unittest import mock

import libvirt
from nova import exception as nova_exception
import pytest

from nova_snapdriver.capture import cold
from nova_snapdriver.capture import copying
from nova_snapdriver.capture import export
from nova_snapdriver.capture import space
from nova_snapdriver.capture import suspend
from nova_snapdriver import exception
from tests.functional import captures
from tests.functional import crashes
from tests.functional import disks
from tests.functional import domains
from tests.functional import images
from tests.functional import power

XFS_BYTES = 320 << 20       # the smallest that there is, and some


@pytest.fixture
def xfs(area):
    """A directory on a file system that can share blocks."""
    image, directory = area / 'xfs', area / 'mounted'
    with image.open('wb') as file:
        file.truncate(XFS_BYTES)
    domains.run('mkfs.xfs', '-q', image)
    directory.mkdir()
    domains.run('mount', '-o', 'loop', image, directory)
    directory.chmod(0o711)
    yield directory
    domains.run('umount', directory)


@pytest.mark.parametrize('make', disks.MAKERS)
@pytest.mark.parametrize('clones', (False, True))
def test_image_is_the_disk_at_the_captured_instant(
        clones, make, area, xfs, loop_device, start_domain):
    directory = xfs if clones else area
    path, disk_format = make(directory, loop_device)
    guest = start_domain((path, disk_format))
    guest.write(8, 2 << 20, 70000)
    before = area / 'before'
    nova = power.Power(guest)
    request = nova.request(directory)

    with mock.patch.object(copying, '_spooled',
                           side_effect=copying._spooled) as spool:
        with cold.capture(request) as captured:
            # It runs while the image is read.
            assert guest.state() == libvirt.VIR_DOMAIN_RUNNING
            assert nova.notes.history == power.RESUMED
            domains.run('qemu-img', 'convert', '-U', '-f', disk_format, '-O',
                        'raw', path, before)
            guest.write(9, 0, 131072)
            guest.write(9, 6 << 20, 65536)
            images.stream(captured.export, area / 'image', 'qcow2')

    block = str(path).startswith('/dev/')
    assert spool.called == (block or not clones)
    assert captured.consistency is export.Consistency.CRASH
    assert nova.attached == 1
    images.assert_same(area / 'image', 'qcow2', before, 'raw')
    power.assert_runs(guest, directory)


def test_paused_guest_is_paused_again(area, start_domain):
    guest = start_domain(disks.make_qcow2(area, None))
    guest.domain.suspend()
    with cold.capture(power.Power(guest).request(area)):
        assert guest.state() == libvirt.VIR_DOMAIN_PAUSED
    power.assert_runs(guest, area, libvirt.VIR_DOMAIN_PAUSED)


def test_guest_that_cannot_be_suspended_goes_on(area, start_domain):
    guest = start_domain(disks.make_qcow2(area, None))
    nova = power.Power(guest)
    nova.suspend = mock.Mock(
        side_effect=nova_exception.InstanceFaultRollback(
            nova_exception.InstanceSuspendFailure(reason='a device')))
    # Devices that it never lost cannot be given back.
    nova.attach = mock.Mock(side_effect=libvirt.libvirtError('is there'))
    with pytest.raises(exception.CaptureFailed, match='a device'):
        with cold.capture(nova.request(area)):
            pass
    assert nova.notes.history == power.RESUMED
    power.assert_runs(guest, area)


def test_copy_that_fails(area, start_domain):
    guest = start_domain(disks.make_qcow2(area, None))
    nova = power.Power(guest)
    with mock.patch.object(copying.child, 'output', autospec=True,
                           side_effect=OSError('no such program')):
        with pytest.raises(exception.CaptureFailed, match='no such program'):
            with cold.capture(nova.request(area)):
                pass
    power.assert_runs(guest, area)


def test_no_room_for_a_copy_is_seen_before_the_guest_is_touched(
        area, start_domain):
    guest = start_domain(disks.make_qcow2(area, None))
    nova = power.Power(guest)
    nova.suspend = mock.Mock()
    for limits in (space.Limits(1 << 60, 0),
                   space.Limits(0, 1)):
        with pytest.raises(exception.ScratchExhausted):
            with cold.capture(nova.request(area, limits=limits)):
                pass
    nova.suspend.assert_not_called()
    power.assert_runs(guest, area)


def wait_until_gone(path):
    deadline = time.monotonic() + 30
    while path.exists() and time.monotonic() < deadline:
        time.sleep(0.1)


def test_clone_gives_way_to_the_guest(xfs, start_domain):
    """The room that a clone takes grows with what the guest overwrites."""
    guest = start_domain(disks.make_raw(xfs, None))
    request = power.Power(guest).request(
        xfs, limits=space.Limits(64 << 20, 0))
    with pytest.raises(exception.ScratchExhausted, match='scratch_reserve'):
        with cold.capture(request):
            free = shutil.disk_usage(xfs).free
            domains.run('fallocate', '-l', free - (32 << 20), xfs / 'others')
            wait_until_gone(pathlib.Path(request.place.copy))
            raise exception.StreamFailed(reason='its server has ended')
    power.assert_runs(guest, xfs)


@pytest.fixture
def impatient():
    with mock.patch.object(suspend, '_PAUSE_SECONDS', 0.1):
        yield


def test_start_is_tried_again(area, start_domain, impatient):
    guest = start_domain(disks.make_qcow2(area, None))
    nova = power.Power(guest)
    tried = []

    def launch():
        tried.append(1)
        if len(tried) < 3:
            raise libvirt.libvirtError('not yet')
        guest.domain.create()

    nova.launch = launch
    with cold.capture(nova.request(area)):
        assert len(tried) == 3
    power.assert_runs(guest, area)


def test_start_that_fails_loses_no_memory(area, start_domain, impatient):
    guest = start_domain(disks.make_qcow2(area, None))
    nova = power.Power(guest)
    nova.launch = mock.Mock(side_effect=libvirt.libvirtError('no memory'))
    nova.notes = captures.Notes(may_be_kept=True)
    with pytest.raises(exception.ResumeFailed, match='virsh start'):
        with cold.capture(nova.request(area)):
            pass
    assert nova.notes.kept
    assert nova.notes.history == power.SUSPENDED
    assert guest.domain.hasManagedSaveImage()
    guest.domain.create()
    power.assert_runs(guest, area)


def test_devices_that_do_not_come_back(area, start_domain):
    guest = start_domain(disks.make_qcow2(area, None))
    nova = power.Power(guest)
    nova.attach = mock.Mock(side_effect=libvirt.libvirtError('gone'))
    with pytest.raises(exception.DevicesMissing, match='hard reboot'):
        with cold.capture(nova.request(area)):
            pass
    assert nova.notes.history == power.RESUMED
    power.assert_runs(guest, area)


# Takes a snapshot up to a point, and is killed there.
SCRIPT = """
from nova_snapdriver.capture import cold, copying, suspend

record = noted('cold')
def suspend_guest():
    if point == 'marked':
        die()
    domain.managedSave(0)
    if point == 'saved':
        die()
def launch():
    if point == 'copied':
        die()
    domain.create()
    if point == 'started':
        die()
if point == 'copying':
    copying.child.output = lambda *words, **limits: die()
with record, cold.capture(request.Request(
        guest, imagebackend.root_disk(guest.live_xml()),
        quiesce.Settings(5, False, False), place, record,
        power=suspend.Power(suspend_guest, launch, lambda: None))):
    die()
"""


@pytest.mark.parametrize('point, stopped', (
    ('marked', False), ('saved', True), ('copying', True), ('copied', True),
    ('started', False), ('captured', False)))
def test_killed_at(point, stopped, area, start_domain):
    guest = start_domain(disks.make_qcow2(area, None))
    assert crashes.run(SCRIPT, guest, area, point) == -signal.SIGKILL
    assert guest.domain.isActive() != stopped
    entries = crashes.entries_of(area)

    # Looking does nothing.
    crashes.recover(guest, entries, dry_run=True)
    assert guest.domain.isActive() != stopped

    outcome, = crashes.recover(guest, entries)
    assert outcome.failed == ()
    assert ('started the guest from its saved memory' in
            outcome.done) == stopped
    power.assert_runs(guest, area)
    assert crashes.left(area) == []


@pytest.mark.parametrize('refusal', (
    'the server is suspended', 'the server is on the host b'))
def test_guest_that_nova_does_not_want_to_run_stays(refusal, area,
                                                    start_domain):
    guest = start_domain(disks.make_qcow2(area, None))
    crashes.run(SCRIPT, guest, area, 'copied')
    outcome, = crashes.recover(guest, crashes.entries_of(area),
                               refusal=refusal)
    assert outcome.failed == ()
    assert 'left the guest as it is: %s' % refusal in outcome.done
    assert guest.domain.hasManagedSaveImage()
    guest.domain.create()
    power.assert_runs(guest, area)


def test_guest_is_started_once(area, start_domain):
    """Its image could not be deleted, and then it was suspended again."""
    guest = start_domain(disks.make_qcow2(area, None))
    crashes.run(SCRIPT, guest, area, 'copied')
    entries = crashes.entries_of(area)
    outcome, = crashes.recover(guest, entries, mock.Mock(
        side_effect=nova_exception.ImageNotAuthorized(image_id='x')))
    assert len(outcome.failed) == 1 and not outcome.guest_waits
    guest.domain.managedSave(0)
    outcome, = crashes.recover(guest, entries)
    assert outcome.failed == ()
    assert guest.domain.hasManagedSaveImage()
    guest.domain.create()
    power.assert_runs(guest, area)


def test_guest_that_somebody_else_suspends_stays(area, start_domain):
    guest = start_domain(disks.make_qcow2(area, None))
    crashes.run(SCRIPT, guest, area, 'captured')
    guest.domain.managedSave(0)
    outcome, = crashes.recover(
        guest, crashes.entries_of(area))
    assert outcome.failed == ()
    assert guest.domain.hasManagedSaveImage()
    guest.domain.create()
    power.assert_runs(guest, area)


def test_save_under_way_is_given_up(area, start_domain):
    """A guest that is still being saved goes on rather than stops."""
    guest = start_domain(disks.make_qcow2(area, None))
    saving = [True, True, False]
    wrapped = guest.wrapped()
    with mock.patch.object(wrapped, 'is_being_saved',
                           side_effect=lambda: saving.pop(0)):
        assert suspend.bring_back(wrapped, guest.domain.create)
    power.assert_runs(guest, area)

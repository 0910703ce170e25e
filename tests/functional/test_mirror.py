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

"""The mirror path against a real QEMU: copied, streamed, compared."""

import collections
import sys
from unittest import mock

import libvirt
import pytest

from nova_snapdriver.capture import mirror
from nova_snapdriver import exception
from nova_snapdriver import guest as snap_guest
from nova_snapdriver import imagebackend
from tests.functional import captures
from tests.functional import crashes
from tests.functional import disks
from tests.functional import domains
from tests.functional import images


@pytest.fixture(scope='module')
def connection(connection_with_events):
    return connection_with_events


def assert_clean(guest, area, path, state=libvirt.VIR_DOMAIN_RUNNING):
    guest.assert_untouched(state)
    assert not guest.domain.blockJobInfo('vda', 0)
    xml = guest.wrapped().live_xml()
    assert imagebackend.root_disk(xml).source.path == str(path)
    assert xml.find('devices/disk/mirror') is None
    assert sorted(area.glob('snapdriver-*')) == []


def capture(guest, area):
    return mirror.capture(captures.request_of(guest.wrapped(), area))


@pytest.mark.quick
@pytest.mark.parametrize('make', disks.MAKERS)
def test_image_is_the_disk_at_the_captured_instant(make, area, loop_device,
                                                   start_domain):
    path, disk_format = make(area, loop_device)
    before = area / 'before'
    domains.run('qemu-img', 'convert', '-f', disk_format, '-O', 'raw', path,
                before)
    guest = start_domain((path, disk_format))
    image = area / 'image'
    with capture(guest, area) as captured:
        assert guest.domain.isPersistent()
        assert not guest.domain.blockJobInfo('vda', 0)
        guest.write(9, 0, 131072)
        images.stream(captured.export, image, 'qcow2')
    images.assert_same(image, 'qcow2', before, 'raw')
    assert_clean(guest, area, path)


def test_paused_guest_stays_paused(area, start_domain):
    path, disk_format = disks.make_raw(area, None)
    guest = start_domain((path, disk_format))
    guest.domain.suspend()
    with capture(guest, area):
        pass
    assert_clean(guest, area, path, libvirt.VIR_DOMAIN_PAUSED)


@pytest.mark.quick
def test_error_while_the_image_is_read_leaves_nothing(area, start_domain):
    path, disk_format = disks.make_overlay(area, None)
    guest = start_domain((path, disk_format))
    with pytest.raises(ZeroDivisionError):
        with capture(guest, area):
            raise ZeroDivisionError
    assert_clean(guest, area, path)


class _Deaf(collections.deque):
    """What libvirt tells, but for some; what is noted by us stays."""

    missed = ()

    def append(self, event):
        if event in self.missed and sys._getframe(1).f_code.co_name == 'note':
            return
        super().append(event)


def test_ready_is_known_without_an_event(area, start_domain):
    path, disk_format = disks.make_overlay(area, None)
    guest = start_domain((path, disk_format))
    with mock.patch('nova_snapdriver.guest.collections.deque', _Deaf), \
            mock.patch.object(_Deaf, 'missed',
                              (snap_guest.BlockJobEvent.READY,)):
        with capture(guest, area):
            pass
    assert_clean(guest, area, path)


def test_end_that_no_event_tells_is_no_success(area, start_domain):
    """The last of the data may not have been written."""
    path, disk_format = disks.make_overlay(area, None)
    guest = start_domain((path, disk_format))
    with mock.patch('nova_snapdriver.guest.collections.deque', _Deaf), \
            mock.patch.object(_Deaf, 'missed',
                              tuple(snap_guest.BlockJobEvent)), \
            mock.patch.object(mirror, '_LAST_EVENT_SECONDS', 1):
        with pytest.raises(exception.CaptureFailed, match='does not say'):
            with capture(guest, area):
                pass
    assert_clean(guest, area, path)


def test_job_of_somebody_else_is_left_alone(area, start_domain):
    path, disk_format = disks.make_raw(area, None)
    guest = start_domain((path, disk_format))
    theirs = area / 'theirs'
    guest.domain.blockCopy(
        'vda', "<disk type='file'><driver type='raw'/><source file='%s'/>"
        "</disk>" % theirs, None,
        libvirt.VIR_DOMAIN_BLOCK_COPY_TRANSIENT_JOB)
    with pytest.raises(exception.CaptureFailed, match='another block job'):
        with capture(guest, area):
            pass
    assert guest.domain.blockJobInfo('vda', 0)
    guest.domain.blockJobAbort('vda', 0)
    assert_clean(guest, area, path)


# Takes a snapshot by a mirror up to a point, and is killed there.
SCRIPT = """
if point == 'made':
    mirror._copy = die
elif point == 'copying':
    mirror._wait_until_ready = die
elif point == 'frozen':
    guest.end_copy = die
elif point == 'ended':
    mirror._wait_for_the_end = die
with noted('mirror') as record:
    disk = imagebackend.root_disk(guest.live_xml())
    with mirror.capture(request.Request(
            guest, disk, quiesce.Settings(5, False, False), place, record)):
        die()
"""


@pytest.mark.parametrize('point', ('made', 'copying', 'frozen', 'ended',
                                   'captured'))
def test_killed_at(point, area, start_domain):
    path, disk_format = disks.make_overlay(area, None)
    guest = start_domain((path, disk_format))
    crashes.run(SCRIPT, guest, area, point)
    entries = crashes.entries_of(area)
    copying = bool(guest.domain.blockJobInfo('vda', 0))
    assert copying == (point in ('copying', 'frozen'))

    outcome, = crashes.recover(guest, entries)
    assert outcome.failed == ()
    assert ('ended its block copy' in outcome.done) == copying
    assert_clean(guest, area, path)
    assert crashes.left(area) == []
    domains.run('qemu-img', 'check', '-U', '-f', disk_format, path)

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

"""The live path against a real QEMU: captured, streamed, compared."""

import libvirt
import pytest

from nova_snapdriver.capture import export
from nova_snapdriver.capture import live
from nova_snapdriver import exception
from nova_snapdriver import imagebackend
from tests.functional import captures
from tests.functional import disks
from tests.functional import domains
from tests.functional import images


def capture(guest, directory):
    return live.capture(captures.request_of(guest.wrapped(), directory))


@pytest.mark.quick
@pytest.mark.parametrize('image_format', ('qcow2', 'raw'))
@pytest.mark.parametrize('make', disks.MAKERS)
def test_image_is_the_disk_at_the_captured_instant(
        make, image_format, area, loop_device, start_domain):
    path, disk_format = make(area, loop_device)
    before = area / 'before'
    domains.run('qemu-img', 'convert', '-f', disk_format, '-O', 'raw', path,
                before)
    guest = start_domain((path, disk_format))
    image = area / 'image'

    with capture(guest, area) as captured:
        assert guest.domain.isPersistent()
        guest.write(9, 0, 131072)
        images.stream(captured.export, image, image_format)
        guest.write(9, 1048576, 65536)

    assert captured.consistency == export.Consistency.CRASH
    assert captured.freeze_seconds < 5
    images.assert_same(image, image_format, before, 'raw')
    guest.assert_untouched()
    assert sorted(area.glob('snapdriver-*')) == []


@pytest.mark.quick
def test_paused_guest_stays_paused(area, start_domain):
    guest = start_domain(disks.make_raw(area, None))
    guest.domain.suspend()
    with capture(guest, area):
        pass
    guest.assert_untouched(libvirt.VIR_DOMAIN_PAUSED)


def test_agent_that_cannot_answer_is_not_asked(area, start_domain):
    """Each question would wait for its time-out."""
    without = start_domain(disks.make_raw(area, None)).wrapped()
    assert 'no channel' in without.agent_refusal()
    guest = start_domain(disks.make_qcow2(area, None), channel=domains.CHANNEL)
    assert 'no agent runs' in guest.wrapped().agent_refusal()
    guest.domain.suspend()
    assert 'does not run' in guest.wrapped().agent_refusal()


def test_only_the_root_disk_is_captured(area, start_domain):
    guest = start_domain(disks.make_raw(area, None),
                         disks.make_qcow2(area, None))
    with capture(guest, area):
        xml = imagebackend.parse(guest.domain.backupGetXMLDesc(0))
        assert [(found.get('name'), found.get('backup'))
                for found in xml.iterfind('disks/disk')] == [
                    ('vda', 'yes'), ('vdb', 'no')]
    guest.assert_untouched()


@pytest.mark.quick
def test_error_while_the_image_is_read_leaves_nothing(area, start_domain):
    guest = start_domain(disks.make_raw(area, None))
    with pytest.raises(ZeroDivisionError):
        with capture(guest, area):
            raise ZeroDivisionError
    guest.assert_untouched()
    assert sorted(area.glob('snapdriver-*')) == []


@pytest.mark.quick
def test_job_of_somebody_else_is_left_alone(area, start_domain):
    guest = start_domain(disks.make_raw(area, None))
    guest.domain.backupBegin(
        "<domainbackup mode='pull'><server transport='unix' "
        "socket='/var/tmp/snapdriver-test-theirs'/></domainbackup>", None, 0)
    with pytest.raises(exception.CaptureFailed, match='another job'):
        with capture(guest, area):
            pass
    assert guest.has_job()
    assert sorted(area.glob('snapdriver-*')) == []
    guest.domain.abortJob()


def test_domain_that_goes_away_is_an_error_of_the_stream(area, start_domain):
    guest = start_domain(disks.make_raw(area, None))
    with pytest.raises(exception.StreamFailed):
        with capture(guest, area) as captured:
            guest.domain.destroy()
            images.stream(captured.export, area / 'image', 'raw')
    assert sorted(area.glob('snapdriver-*')) == []
    assert guest.domain.isPersistent()


def test_directory_that_qemu_cannot_enter(area, start_domain):
    guest = start_domain(disks.make_raw(area, None))
    closed = area / 'closed'
    closed.mkdir(mode=0o700)
    with pytest.raises(exception.DirectoryUnusable, match=str(closed)):
        with capture(guest, closed):
            pass
    guest.assert_untouched()
    assert sorted(closed.iterdir()) == []


def test_path_too_long_for_a_socket(area, start_domain):
    guest = start_domain(disks.make_raw(area, None))
    deep = area / ('d' * 80)
    with pytest.raises(exception.DirectoryUnusable, match='107'):
        with capture(guest, deep):
            pass
    guest.assert_untouched()

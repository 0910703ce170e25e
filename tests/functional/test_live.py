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
from nova_snapdriver.capture import quiesce
from nova_snapdriver.capture import request as capture_request
from nova_snapdriver.capture import workspace
from nova_snapdriver import exception
from nova_snapdriver import imagebackend
from nova_snapdriver.transfer import process
from tests.functional import domains

IMAGE_ID = '6ed4ff3f-7c4b-4a6f-9b5c-0d1b7e1e7e11'

# 10 MiB and three sectors: neither a whole cluster nor a whole page.
ODD_SIZE = 10 * 1024 * 1024 + 1536
PATTERN = ((1, 0, 65536), (2, 1048576, 4096), (3, 5242880, 199680),
           (4, ODD_SIZE - 512, 512))


def request_of(guest, disk, place):
    return capture_request.Request(guest, disk, quiesce.Settings(
        agent_timeout=5, has_agent=False, require_quiesce=False), place,
        on_leftover)


def place(directory):
    return workspace.locate(str(directory))


def on_leftover():
    raise AssertionError('something was left behind')


def write_patterns(path, disk_format):
    for byte, offset, length in PATTERN:
        domains.run('qemu-io', '-f', disk_format, '-c',
                    'write -P %d %d %d' % (byte, offset, length), path)


def make_qcow2(area, loop_device):
    path = area / 'disk.qcow2'
    domains.run('qemu-img', 'create', '-f', 'qcow2', path, ODD_SIZE)
    write_patterns(path, 'qcow2')
    return path, 'qcow2'


def make_raw(area, loop_device):
    path = area / 'disk.raw'
    domains.run('qemu-img', 'create', '-f', 'raw', path, ODD_SIZE)
    write_patterns(path, 'raw')
    return path, 'raw'


def make_overlay(area, loop_device):
    base, _ = make_raw(area, loop_device)
    path = area / 'overlay.qcow2'
    domains.run('qemu-img', 'create', '-f', 'qcow2', '-F', 'raw', '-b', base,
                path)
    domains.run('qemu-io', '-f', 'qcow2', '-c', 'write -P 7 1048576 1024',
                '-c', 'write -z 5242880 65536', path)
    return path, 'qcow2'


def make_block(area, loop_device):
    path, disk_format = make_raw(area, loop_device)
    return loop_device(path), disk_format


@pytest.mark.parametrize('image_format', ('qcow2', 'raw'))
@pytest.mark.parametrize('make', (make_qcow2, make_raw, make_overlay,
                                  make_block))
def test_image_is_the_disk_at_the_captured_instant(
        make, image_format, area, loop_device, start_domain):
    path, disk_format = make(area, loop_device)
    before = area / 'before'
    domains.run('qemu-img', 'convert', '-f', disk_format, '-O', 'raw', path,
                before)
    guest = start_domain((path, disk_format))
    wrapped = guest.wrapped()
    disk = imagebackend.root_disk(wrapped.live_xml())
    image = area / 'image'

    with live.capture(request_of(wrapped, disk, place(area))) as captured:
        assert guest.domain.isPersistent()
        guest.write(9, 0, 131072)
        request = process.Request(captured.export, image_format, 'sha512')
        with process.StreamProcess(request) as stream:
            with image.open('wb') as out:
                for chunk in stream.chunks():
                    out.write(chunk)
            assert stream.length == image.stat().st_size
        guest.write(9, 1048576, 65536)

    assert captured.consistency == export.Consistency.CRASH
    assert captured.freeze_seconds < 5
    domains.run('qemu-img', 'compare', '-f', image_format, '-F', 'raw', image,
                before)
    if image_format == 'qcow2':
        domains.run('qemu-img', 'check', '-f', 'qcow2', image)
    guest.assert_untouched()
    assert sorted(area.glob('snapdriver-*')) == []


def test_paused_guest_stays_paused(area, start_domain):
    guest = start_domain(make_raw(area, None))
    guest.domain.suspend()
    wrapped = guest.wrapped()
    disk = imagebackend.root_disk(wrapped.live_xml())
    with live.capture(request_of(wrapped, disk, place(area))):
        pass
    guest.assert_untouched(libvirt.VIR_DOMAIN_PAUSED)


def test_agent_that_cannot_answer_is_not_asked(area, start_domain):
    """Each question would wait for its time-out."""
    without = start_domain(make_raw(area, None)).wrapped()
    assert 'no channel' in without.agent_refusal()
    guest = start_domain(make_qcow2(area, None), channel=domains.CHANNEL)
    assert 'no agent runs' in guest.wrapped().agent_refusal()
    guest.domain.suspend()
    assert 'does not run' in guest.wrapped().agent_refusal()


def test_only_the_root_disk_is_captured(area, start_domain):
    guest = start_domain(make_raw(area, None), make_qcow2(area, None))
    wrapped = guest.wrapped()
    disk = imagebackend.root_disk(wrapped.live_xml())
    with live.capture(request_of(wrapped, disk, place(area))):
        xml = imagebackend.parse(guest.domain.backupGetXMLDesc(0))
        assert [(found.get('name'), found.get('backup'))
                for found in xml.iterfind('disks/disk')] == [
                    ('vda', 'yes'), ('vdb', 'no')]
    guest.assert_untouched()


def test_error_while_the_image_is_read_leaves_nothing(area, start_domain):
    guest = start_domain(make_raw(area, None))
    wrapped = guest.wrapped()
    disk = imagebackend.root_disk(wrapped.live_xml())
    with pytest.raises(ZeroDivisionError):
        with live.capture(request_of(wrapped, disk, place(area))):
            raise ZeroDivisionError
    guest.assert_untouched()
    assert sorted(area.glob('snapdriver-*')) == []


def test_job_of_somebody_else_is_left_alone(area, start_domain):
    guest = start_domain(make_raw(area, None))
    guest.domain.backupBegin(
        "<domainbackup mode='pull'><server transport='unix' "
        "socket='/var/tmp/snapdriver-test-theirs'/></domainbackup>", None, 0)
    wrapped = guest.wrapped()
    disk = imagebackend.root_disk(wrapped.live_xml())
    with pytest.raises(exception.CaptureFailed, match='another job'):
        with live.capture(request_of(wrapped, disk, place(area))):
            pass
    assert guest.has_job()
    assert sorted(area.glob('snapdriver-*')) == []
    guest.domain.abortJob()


def test_domain_that_goes_away_is_an_error_of_the_stream(area, start_domain):
    guest = start_domain(make_raw(area, None))
    wrapped = guest.wrapped()
    disk = imagebackend.root_disk(wrapped.live_xml())
    with pytest.raises(exception.StreamFailed):
        with live.capture(request_of(wrapped, disk, place(area))) as captured:
            guest.domain.destroy()
            request = process.Request(captured.export, 'raw', 'sha512')
            with process.StreamProcess(request) as stream:
                assert stream.length
    assert sorted(area.glob('snapdriver-*')) == []
    assert guest.domain.isPersistent()


def test_directory_that_qemu_cannot_enter(area, start_domain):
    guest = start_domain(make_raw(area, None))
    wrapped = guest.wrapped()
    disk = imagebackend.root_disk(wrapped.live_xml())
    closed = area / 'closed'
    closed.mkdir(mode=0o700)
    with pytest.raises(exception.DirectoryUnusable, match=str(closed)):
        with live.capture(request_of(wrapped, disk, place(closed))):
            pass
    guest.assert_untouched()
    assert sorted(closed.iterdir()) == []


def test_path_too_long_for_a_socket(area, start_domain):
    guest = start_domain(make_raw(area, None))
    wrapped = guest.wrapped()
    disk = imagebackend.root_disk(wrapped.live_xml())
    deep = area / ('d' * 80)
    with pytest.raises(exception.DirectoryUnusable, match='107'):
        with live.capture(request_of(wrapped, disk, place(deep))):
            pass
    guest.assert_untouched()

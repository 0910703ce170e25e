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

"""The driver on a real libvirt, with a Glance that answers awkwardly."""

import hashlib
import time
from unittest import mock
import uuid

from nova.compute import task_states
import nova.conf
from nova import exception as nova_exception
from nova.virt.libvirt import driver as nova_driver
import pytest

from nova_snapdriver import driver
from nova_snapdriver import exception
from tests.functional import disks
from tests.functional import domains
from tests.functional import snapshots

CONF = nova.conf.CONF


@pytest.fixture
def guest(area, start_domain):
    return start_domain(disks.make_qcow2(area, None))


def assert_image_is_disk(glance, area):
    image = area / 'image'
    image.write_bytes(glance.data)
    domains.run('qemu-img', 'check', '-f', 'qcow2', image)
    # -U: a QEMU may have the disk open.
    domains.run('qemu-img', 'compare', '-U', '-f', 'qcow2', '-F', 'qcow2',
                image, area / 'disk.qcow2')


@pytest.mark.quick
def test_snapshot(snap_driver, glance, guest, area):
    snapshot = snapshots.Snapshot(snap_driver, guest)
    snapshot.take()

    # Before the capture, what is known by then; and what it has been.
    assert [one for one in glance.requests if one != 'GET'] == [
        'PATCH', 'PATCH', 'PUT']
    assert snapshot.states == [
        ('image_snapshot', 'image_pending_upload'),
        ('image_pending_upload', 'image_uploading')]
    found = glance.image
    assert found['status'] == 'active'
    assert found['disk_format'] == 'qcow2'
    assert found['container_format'] == 'bare'
    assert found['snapdriver_path'] == 'live'
    assert found['snapdriver_consistency'] == 'crash'
    assert found['snapdriver_captured_at'].endswith('+00:00')
    # What the API has set stays.
    assert (found['min_disk'], found['min_ram']) == (3, 64)
    assert found['base_image_ref'] == 'b'
    assert found['name'] == 'a snapshot'
    size = str(len(glance.data))
    assert glance.headers[0]['x-openstack-image-size'] == size
    assert glance.headers[0]['Content-Length'] == size
    assert_image_is_disk(glance, area)
    snapshots.assert_clean(guest, area)


@pytest.mark.quick
@pytest.mark.parametrize('status, expected', (
    (401, nova_exception.ImageNotAuthorized),
    (403, nova_exception.ImageNotAuthorized),
    (404, nova_exception.ImageNotFound),
    (409, exception.UploadFailed),
    (410, nova_exception.ImageNotFound),
    (413, nova_exception.ImageQuotaExceeded),
    (415, exception.UploadFailed),
    (500, exception.UploadFailed)))
def test_refusal_is_final(status, expected, snap_driver, glance, guest, area):
    glance.faults = [status]
    with pytest.raises(expected) as caught:
        snapshots.Snapshot(snap_driver, guest).take()
    if expected is exception.UploadFailed:
        assert '%d: Refused: no luck today' % status in str(caught.value)
    assert len(glance.uploads) == 1
    # Also if it is said to be gone: it may be a proxy that says so.
    assert glance.deleted
    snapshots.assert_clean(guest, area)


@pytest.mark.quick
@pytest.mark.parametrize('fault', (503, 'break'))
def test_retry_sends_the_whole_image_again(fault, snap_driver, glance, guest,
                                           area):
    glance.faults = [fault]
    with mock.patch('time.sleep'):
        snapshots.Snapshot(snap_driver, guest).take()
    assert glance.image['status'] == 'active'
    assert all(data == glance.data for data in glance.uploads)
    snapshots.assert_clean(guest, area)


@pytest.mark.parametrize('group, option, value, codec', (
    ('snapdriver', 'compression', 'zstd', 'zstd'),
    ('libvirt', 'snapshot_compression', True, 'zlib')))
def test_compressed_images_are_retried_and_verified_too(
        group, option, value, codec, snap_driver, glance, guest, area, conf):
    """Each attempt, and that for the hash of Glance, makes the same."""
    conf(option, value, group)
    glance.faults = [503]
    glance.algorithm = 'sha256'
    with mock.patch('time.sleep'):
        snapshots.Snapshot(snap_driver, guest).take()
    assert all(data == glance.data for data in glance.uploads)
    assert_image_is_disk(glance, area)
    told = domains.run('qemu-img', 'info', '-f', 'qcow2', area / 'image')
    assert 'compression type: %s' % codec in told
    assert ' 0.00% compressed' not in domains.run(
        'qemu-img', 'check', '-f', 'qcow2', area / 'image')
    snapshots.assert_clean(guest, area)


def test_nothing_is_hashed_that_nobody_compares(snap_driver, glance, guest,
                                                area, conf):
    conf('verify', False, 'snapdriver')
    snapshots.Snapshot(snap_driver, guest).take()
    assert_image_is_disk(glance, area)
    snapshots.assert_clean(guest, area)


def test_retries_end(snap_driver, glance, guest, area):
    glance.faults = ['break', 'break']
    with mock.patch('time.sleep'), pytest.raises(exception.UploadFailed):
        snapshots.Snapshot(snap_driver, guest).take()
    assert glance.deleted
    snapshots.assert_clean(guest, area)


def test_answer_that_was_lost_is_made_up_for(snap_driver, glance, guest, area):
    glance.faults = ['lost']
    snapshots.Snapshot(snap_driver, guest).take()
    assert len(glance.uploads) == 1
    assert not glance.deleted
    snapshots.assert_clean(guest, area)


@pytest.mark.quick
@pytest.mark.parametrize('fault, words', (
    ('flip', 'hash'), ('short', 'size'), ('nothing', 'status')))
def test_what_arrived_wrong_is_deleted(fault, words, snap_driver, glance,
                                       guest, area):
    glance.faults = [fault]
    with pytest.raises(exception.VerifyFailed, match=words):
        snapshots.Snapshot(snap_driver, guest).take()
    assert glance.deleted
    snapshots.assert_clean(guest, area)


def test_another_hash_of_glance_is_computed(snap_driver, glance, guest, area):
    glance.algorithm = 'sha256'
    snapshots.Snapshot(snap_driver, guest).take()
    assert not glance.deleted
    assert glance.image['os_hash_value'] == hashlib.sha256(
        glance.data).hexdigest()
    snapshots.assert_clean(guest, area)


def test_glance_is_not_there(snap_driver, glance, guest, conf, area):
    real = driver.snap_image.Image.describe

    def describe_and_vanish(image, metadata):
        real(image, metadata)
        conf('api_servers', ['http://127.0.0.1:1'], 'glance')

    with mock.patch.object(driver.snap_image.Image, 'describe',
                           describe_and_vanish), mock.patch('time.sleep'), \
            mock.patch('nova_snapdriver.transfer.image._SETTLE_SECONDS', 1), \
            mock.patch.object(driver.retry.Retry, 'begin') as begin:
        with pytest.raises(exception.UploadFailed):
            snapshots.Snapshot(snap_driver, guest).take()
    # It could not be deleted either: that is left to a recovery.
    begin.assert_called_once_with()
    record, = snap_driver._journal.abandoned()
    assert record.entry.image == snapshots.IMAGE_ID
    record.remove()
    record.close()
    snapshots.assert_clean(guest, area)


@pytest.mark.parametrize('state', (0, 1))
def test_task_state_that_does_not_fit(state, snap_driver, glance, guest, area):
    """The server is being deleted: Nova's manager expects its own error."""
    snapshot = snapshots.Snapshot(snap_driver, guest)
    update = snapshot._update_task_state

    def deleting(**states):
        if len(snapshot.states) == state:
            raise nova_exception.UnexpectedDeletingTaskStateError(
                instance_uuid=guest.instance.uuid, expected={}, actual={})
        update(**states)

    snapshot._update_task_state = deleting
    with pytest.raises(nova_exception.UnexpectedDeletingTaskStateError):
        snapshot.take()
    snapshots.assert_clean(guest, area)


def test_server_deleted_meanwhile(snap_driver, glance, guest, area, server):
    snapshot = snapshots.Snapshot(snap_driver, guest)

    def destroyed(task_state, expected_state=None):
        if task_state == 'image_uploading':
            server.task_state = 'deleting'
            guest.domain.destroy()
            guest.domain.undefine()

    snapshot._update_task_state = destroyed
    xml = guest.domain.XMLDesc(0)
    with pytest.raises(nova_exception.InstanceNotFound):
        snapshot.take()
    assert glance.deleted
    assert sorted((area / 'snapshots').glob('*')) == []
    guest.domain.connect().defineXML(xml)


def test_server_stopped_meanwhile(snap_driver, glance, guest, area):
    """With InstanceNotFound the server would keep its task state."""
    snapshot = snapshots.Snapshot(snap_driver, guest)

    def destroyed(task_state, expected_state=None):
        if task_state == 'image_uploading':
            guest.domain.destroy()

    snapshot._update_task_state = destroyed
    with pytest.raises(exception.Cancelled, match='stopped'):
        snapshot.take()
    assert glance.deleted
    assert sorted((area / 'snapshots').glob('*')) == []


def test_quiesce_that_is_required_and_impossible(snap_driver, glance, guest,
                                                 area):
    snapshot = snapshots.Snapshot(
        snap_driver, guest, hw_qemu_guest_agent='yes',
        os_require_quiesce='yes')
    with pytest.raises(exception.QuiesceFailed, match='agent'):
        snapshot.take()
    assert glance.deleted
    snapshots.assert_clean(guest, area)


@pytest.mark.parametrize('option, value', (
    ('scratch_reserve', 1 << 40), ('scratch_limit', 1)))
def test_guest_that_overwrites_more_than_there_is_room_for(
        option, value, snap_driver, glance, start_domain, conf, area):
    disk = area / 'disk'
    disk.write_bytes(b'x' * (4 << 20))
    guest = start_domain((disk, 'raw'))
    snapshot = snapshots.Snapshot(snap_driver, guest)

    def write_and_wait(task_state, expected_state=None):
        if task_state == 'image_uploading':
            guest.write(9, 0, 4 << 20)
            deadline = time.monotonic() + 30
            while guest.has_job() and time.monotonic() < deadline:
                time.sleep(0.1)

    conf(option, value, 'snapdriver')
    snapshot._update_task_state = write_and_wait
    with pytest.raises(exception.ScratchExhausted, match=option):
        snapshot.take()
    assert glance.deleted
    snapshots.assert_clean(guest, area)


def test_instance_without_a_domain(snap_driver, glance):
    gone = mock.Mock()
    gone.instance.uuid = str(uuid.uuid4())
    with pytest.raises(nova_exception.InstanceNotRunning):
        snapshots.Snapshot(snap_driver, gone).take()


@pytest.mark.parametrize('option, group, value', (
    ('snapshot_image_format', 'libvirt', 'vmdk'),
    ('enabled', 'ephemeral_storage_encryption', True)))
def test_what_is_not_ours_goes_the_way_of_nova(option, group, value,
                                               snap_driver, glance, guest,
                                               conf):
    conf(option, value, group)
    with mock.patch.object(nova_driver.LibvirtDriver, 'snapshot',
                           autospec=True) as stock:
        snapshot = snapshots.Snapshot(snap_driver, guest)
        snapshot.take()
    stock.assert_called_once_with(
        snap_driver, snapshot.context, snapshot.instance, snapshots.IMAGE_ID,
        mock.ANY)
    # What Nova's own does first is done.
    update = stock.call_args.args[-1]
    update(task_state='image_pending_upload')
    update(task_state='image_uploading',
           expected_state='image_pending_upload')
    assert [state for _, state in snapshot.states] == [
        'image_pending_upload', 'image_uploading']
    assert not glance.deleted


@pytest.mark.quick
def test_stopped_server(snap_driver, glance, guest, area):
    guest.domain.destroy()
    snapshot = snapshots.Snapshot(snap_driver, guest)
    snapshot.take()
    assert [state for _, state in snapshot.states] == [
        'image_pending_upload', 'image_uploading']
    assert glance.image['snapdriver_path'] == 'cold'
    assert glance.image['snapdriver_consistency'] == 'offline'
    assert_image_is_disk(glance, area)
    guest.domain.create()
    snapshots.assert_clean(guest, area)


def test_server_that_moves_to_another_cell(snap_driver, glance, guest, area,
                                           server):
    """Nova stops it, and shows none of its snapshot's task states."""
    guest.domain.destroy()
    server.task_state = task_states.RESIZE_MIGRATING
    snapshots.Snapshot(snap_driver, guest).take_for_a_resize()
    assert glance.image['snapdriver_path'] == 'cold'
    assert_image_is_disk(glance, area)
    guest.domain.create()
    snapshots.assert_clean(guest, area)


@pytest.mark.quick
@pytest.mark.parametrize('option, group, value', (
    ('disable_libvirt_livesnapshot', 'workarounds', True),
    ('live_method', 'snapdriver', 'cold')))
def test_server_that_is_suspended_for_it(option, group, value, snap_driver,
                                         glance, guest, conf, area):
    conf(option, value, group)
    snapshots.Snapshot(snap_driver, guest).take()
    assert glance.image['snapdriver_path'] == 'cold'
    assert glance.image['snapdriver_consistency'] == 'crash'
    assert_image_is_disk(glance, area)
    snapshots.assert_clean(guest, area)


def test_server_that_is_suspended_and_an_upload_that_fails(
        snap_driver, glance, guest, conf, area):
    conf('live_method', 'cold', 'snapdriver')
    glance.faults = [500]
    with pytest.raises(exception.UploadFailed):
        snapshots.Snapshot(snap_driver, guest).take()
    assert glance.deleted
    assert not guest.domain.hasManagedSaveImage()
    snapshots.assert_clean(guest, area)


def test_stream_of_a_stopped_server_that_breaks(snap_driver, glance, guest,
                                                area):
    """The server is there: it must not be taken for a deleted one."""
    guest.domain.destroy()
    broken = exception.StreamFailed(reason='the disk is broken')
    with mock.patch('nova_snapdriver.transfer.send.send', side_effect=broken):
        with pytest.raises(exception.StreamFailed):
            snapshots.Snapshot(snap_driver, guest).take()
    assert glance.deleted
    guest.domain.create()
    snapshots.assert_clean(guest, area)


@pytest.mark.quick
def test_mirror(snap_driver, glance, guest, conf, area, event_loop):
    conf('live_method', 'mirror', 'snapdriver')
    snapshots.Snapshot(snap_driver, guest).take()
    assert glance.image['snapdriver_path'] == 'mirror'
    assert glance.image['snapdriver_consistency'] == 'crash'
    assert_image_is_disk(glance, area)
    snapshots.assert_clean(guest, area)


@pytest.mark.parametrize('option, value', (
    ('agent_timeout', 'soon'), ('agent_timeout', '0'),
    ('compression', 'crc32'), ('upload_stall_timeout', '-1'),
    ('verify', 'perhaps'), ('scratch_directory', ''),
    ('scratch_directory', 'snapshots')))
def test_wrong_values_are_told_at_the_start(option, value, tmp_path):
    path = tmp_path / 'nova.conf'
    path.write_text('[snapdriver]\n%s = %s\n' % (option, value))
    CONF.clear()
    CONF([], project='nova', default_config_files=[str(path)])
    try:
        with pytest.raises(nova_exception.InvalidConfiguration, match=option):
            driver.SnapDriver(mock.Mock())
    finally:
        CONF.clear()
        CONF([], project='nova', default_config_files=[])

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

"""RBD on a real Ceph, through the driver; only Glance has a stand-in."""

import contextlib
from unittest import mock

from nova import exception as nova_exception
from nova.image import glance as glance_api
from nova.storage import rbd_utils
from nova.virt.libvirt import driver
from nova.virt.libvirt import imagebackend as nova_backend
import pytest

from lab.openstack import ceph as lab_ceph
from nova_snapdriver.capture import direct
from nova_snapdriver.capture import qemunbd
from nova_snapdriver.capture import quiesce
from nova_snapdriver.capture import rbd
from nova_snapdriver.compute import storage
from nova_snapdriver import exception
from nova_snapdriver import journal
from nova_snapdriver.recovery import images as recovery_images
from nova_snapdriver.recovery import undo
from tests.functional import clusters
from tests.functional import domains
from tests.functional import snapshots

ALL = 'profile rbd pool=vms, profile rbd pool=images'


@pytest.fixture(scope='module')
def ceph():
    """A cluster; its disks are in the pool vms, images in images."""
    with clusters.running() as cluster:
        yield cluster


@pytest.fixture
def disk(ceph):
    """A disk of Nova's: a clone of an image in Glance's pool."""
    name = 'vms/disk'
    ceph.rbd('clone', clusters.BASE + '@snap', name)
    clusters.write(ceph, name, 2, 5 << 20, 70000)
    yield name
    ceph.rbd('snap', 'purge', name)
    ceph.rbd('rm', name)
    if clusters.COPY in clusters.images(ceph):
        ceph.rbd('snap', 'unprotect', clusters.COPY + '@snap')
        ceph.rbd('snap', 'purge', clusters.COPY)
        ceph.rbd('rm', clusters.COPY)


@pytest.fixture
def guest(ceph, disk, conf, start_domain):
    conf('images_rbd_pool', 'vms', 'libvirt')
    conf('images_rbd_ceph_conf', str(ceph.conf), 'libvirt')
    conf('rbd_user', lab_ceph.NOVA, 'libvirt')
    conf('rbd_secret_uuid', ceph.fsid, 'libvirt')
    conf('rbd_destroy_volume_retries', 2, 'libvirt')
    return start_domain(((disk, ceph), 'rbd'))


def assert_nothing_left(cluster, disk):
    """No snapshot of the disk, and no image but the base."""
    assert cluster.rbd('snap', 'ls', disk).strip() == ''
    assert clusters.images(cluster) == [clusters.BASE]


def assert_nothing_staged(area):
    for name in ('snapshots', 'journal'):
        assert sorted((area / name).glob('*')) == []


def assert_live(glance, before, area):
    assert glance.image['snapdriver_path'] == 'live'
    assert glance.image['disk_format'] == 'raw'
    assert glance.location is None
    image = area / 'image'
    image.write_bytes(glance.data)
    assert_same(image, before)


def assert_same(first, second):
    domains.run('qemu-img', 'compare', '-f', 'raw', '-F', 'raw', first,
                second)


def test_direct(snap_driver, glance, ceph, disk, guest, area):
    before = clusters.export(ceph, disk, area / 'before')
    snapshot = snapshots.Snapshot(snap_driver, guest)
    snapshot.take()
    guest.write(9, 0, 65536)

    assert snapshot.states == [
        ('image_snapshot', 'image_pending_upload'),
        ('image_pending_upload', 'image_uploading')]
    found = glance.image
    assert found['status'] == 'active'
    assert found['disk_format'] == 'raw'
    assert found['snapdriver_path'] == 'direct'
    assert found['snapdriver_consistency'] == 'crash'
    assert found['snapdriver_captured_at'].endswith('+00:00')
    assert (found['name'], found['base_image_ref']) == ('a snapshot', 'b')
    assert glance.location.endswith('/%s/snap' % clusters.COPY)
    assert glance.uploads == []
    copy = clusters.export(ceph, clusters.COPY + '@snap', area / 'copy')
    assert_same(copy, before)
    told = ceph.rbd('info', clusters.COPY)
    assert 'parent:' not in told, 'it was not flattened'
    assert ceph.rbd('snap', 'ls', disk).strip() == ''
    snapshots.assert_clean(guest, area)


def test_direct_of_a_stopped_server(snap_driver, glance, ceph, disk, guest,
                                    area):
    guest.domain.destroy()
    snapshots.Snapshot(snap_driver, guest).take()
    assert glance.image['snapdriver_path'] == 'direct'
    assert glance.image['snapdriver_consistency'] == 'offline'
    assert_same(clusters.export(ceph, clusters.COPY + '@snap', area / 'copy'),
                clusters.export(ceph, disk, area / 'disk'))


@pytest.mark.parametrize('step', ('clone', 'flatten', 'snap', 'Glance'))
def test_direct_that_fails_leaves_nothing_and_the_disk_is_read(
        step, snap_driver, glance, ceph, disk, guest, area):
    before = clusters.export(ceph, disk, area / 'before')
    if step == 'Glance':
        glance.location_fault = 403
    suspend = mock.patch.object(snap_driver, 'suspend')
    with failing(step), suspend as suspended:
        snapshot = snapshots.Snapshot(snap_driver, guest)
        snapshot.take()
    assert snapshot.states[0] == ('image_snapshot', 'image_pending_upload')
    suspended.assert_not_called()
    assert_live(glance, before, area)
    assert_nothing_left(ceph, disk)
    snapshots.assert_clean(guest, area)


def failing(step):
    """Ceph refuses one step of Nova's, or none."""
    real = rbd_utils.RBDDriver.create_snap

    def create_snap(self, volume, name, pool=None, protect=False):
        if pool == 'images':
            raise rbd_utils.rbd.Error('refused')
        return real(self, volume, name, pool=pool, protect=protect)

    effects = {'clone': nova_exception.Forbidden('no write permission'),
               'flatten': rbd_utils.rbd.Error('no space'),
               'snap': create_snap}
    if step == 'Glance':
        return mock.patch.object(rbd_utils, 'LOG')
    name = 'create_snap' if step == 'snap' else step
    return mock.patch.object(rbd_utils.RBDDriver, name, autospec=True,
                             side_effect=effects[step])


def test_glance_is_elsewhere(snap_driver, glance, ceph, disk, guest, area):
    ceph.rbd('flatten', disk)
    before = clusters.export(ceph, disk, area / 'before')
    snapshots.Snapshot(snap_driver, guest).take()
    assert_live(glance, before, area)
    assert_nothing_left(ceph, disk)
    snapshots.assert_clean(guest, area)


def test_image_that_is_to_be_qcow2(snap_driver, glance, ceph, disk, guest,
                                   conf, area):
    conf('snapshot_image_format', 'qcow2', 'libvirt')
    before = clusters.export(ceph, disk, area / 'before')
    snapshots.Snapshot(snap_driver, guest).take()
    assert glance.image['snapdriver_path'] == 'live'
    image = area / 'image'
    image.write_bytes(glance.data)
    domains.run('qemu-img', 'compare', '-f', 'qcow2', '-F', 'raw', image,
                before)
    assert_nothing_left(ceph, disk)


def test_quiesce_that_is_required_and_fails(snap_driver, glance, ceph, disk,
                                            guest, area):
    snapshot = snapshots.Snapshot(snap_driver, guest,
                                  os_require_quiesce='yes')
    with pytest.raises(exception.QuiesceFailed):
        snapshot.take()
    assert glance.deleted
    assert_nothing_left(ceph, disk)
    snapshots.assert_clean(guest, area)


def test_image_that_was_deleted_meanwhile(snap_driver, glance, ceph, disk,
                                          guest, area):
    real = direct.copy

    def copy_slowly(*arguments):
        copied = real(*arguments)
        glance.deleted = True
        glance.location_fault = 404
        return copied

    with mock.patch.object(direct, 'copy', copy_slowly):
        with pytest.raises(nova_exception.ImageNotFound):
            snapshots.Snapshot(snap_driver, guest).take()
    assert_nothing_left(ceph, disk)
    snapshots.assert_clean(guest, area)


class Crash(BaseException):
    """The end of nova-compute: nothing of its own runs any more."""


@pytest.mark.parametrize('image_there', (True, False))
def test_recovery_after_a_crash(image_there, snap_driver, glance, ceph, disk,
                                guest, area):
    """Killed while Ceph flattens: snapshot, clone and entry are left."""
    dies = mock.patch.object(rbd_utils.RBDDriver, 'flatten',
                             side_effect=Crash)
    no_undoing = mock.patch.multiple(direct, remove=mock.DEFAULT)
    nor_by_nova = mock.patch.object(nova_backend.Rbd,
                                    'cleanup_direct_snapshot')
    kept = mock.patch.object(journal.Record, '__exit__',
                             lambda record, *exc: record.close())
    with dies, no_undoing, nor_by_nova, kept, pytest.raises(Crash):
        snapshots.Snapshot(snap_driver, guest).take()
    assert clusters.COPY in clusters.images(ceph)
    if image_there:
        # As after a crash later on, with the image active.
        ceph.rbd('flatten', clusters.COPY)
        ceph.rbd('snap', 'create', clusters.COPY + '@snap')
        ceph.rbd('snap', 'protect', clusters.COPY + '@snap')

    clusters.recover(snap_driver, image_there)
    assert ceph.rbd('snap', 'ls', disk).strip() == ''
    assert (clusters.COPY in clusters.images(ceph)) == image_there
    guest.assert_untouched()


def test_guest_is_frozen_for_the_snapshot_alone(ceph, disk, guest, conf):
    """And not while Ceph clones and flattens."""
    asked = []

    class Frozen:
        def __enter__(self):
            asked.append('freeze')
            return quiesce.Quiesced(direct.export.Consistency.FILESYSTEM)

        def __exit__(self, *exc):
            asked.append('thaw')

    driver = rbd_utils.RBDDriver()
    wrapped = direct._Freezing(driver, 'disk', guest.wrapped(), None, None)
    with mock.patch.object(quiesce, 'frozen', lambda *arguments: Frozen()):
        with mock.patch.object(rbd_utils.RBDDriver, 'create_snap',
                               lambda *arguments, **named:
                               asked.append('snapshot')):
            wrapped.create_snap('disk', 'one', protect=True)
            wrapped.create_snap('copy', 'snap', pool='images', protect=True)
    assert asked == ['freeze', 'snapshot', 'thaw', 'snapshot']
    assert wrapped.consistency == direct.export.Consistency.FILESYSTEM
    assert wrapped.get_fsid() == ceph.fsid


@pytest.fixture
def stopped(ceph, disk, guest):
    """A stopped domain whose disk no image of Glance's is the base of."""
    guest.write(3, 1 << 20, 65536)
    guest.domain.destroy()
    ceph.rbd('flatten', disk)
    return guest


def assert_cold(glance, before, area, consistency='offline'):
    assert glance.image['snapdriver_path'] == 'cold'
    assert glance.image['snapdriver_consistency'] == consistency
    assert glance.image['disk_format'] == 'raw'
    image = area / 'image'
    image.write_bytes(glance.data)
    assert_same(image, before)


def test_stopped_server_with_glance_elsewhere(snap_driver, glance, ceph, disk,
                                              stopped, area):
    before = clusters.export(ceph, disk, area / 'before')
    snapshots.Snapshot(snap_driver, stopped).take()
    assert_cold(glance, before, area)
    assert_nothing_left(ceph, disk)
    assert_nothing_staged(area)


def test_direct_of_a_stopped_server_that_glance_refuses(
        snap_driver, glance, ceph, disk, guest, area):
    """The disk is read: what of it is in its parent, too."""
    guest.domain.destroy()
    before = clusters.export(ceph, disk, area / 'before')
    glance.location_fault = 403
    snapshots.Snapshot(snap_driver, guest).take()
    assert_cold(glance, before, area)
    assert_nothing_left(ceph, disk)
    assert_nothing_staged(area)


def test_stopped_server_in_qcow2(snap_driver, glance, ceph, disk, stopped,
                                 conf, area):
    conf('snapshot_image_format', 'qcow2', 'libvirt')
    before = clusters.export(ceph, disk, area / 'before')
    snapshots.Snapshot(snap_driver, stopped).take()
    assert glance.image['snapdriver_path'] == 'cold'
    image = area / 'image'
    image.write_bytes(glance.data)
    domains.run('qemu-img', 'compare', '-f', 'qcow2', '-F', 'raw', image,
                before)
    assert len(glance.data) < clusters.SIZE
    assert_nothing_left(ceph, disk)


@pytest.mark.parametrize('when', ('before', 'after'))
def test_stopped_server_that_starts_meanwhile(when, snap_driver, glance, ceph,
                                              disk, stopped, area):
    """It starts, and what it writes then is not in the image."""
    before = clusters.export(ceph, disk, area / 'before')

    @contextlib.contextmanager
    def start_and_hold(*arguments):
        if when == 'before':
            stopped.domain.create()
        with hold(*arguments):
            if when == 'after':
                stopped.domain.create()
            stopped.write(9, 0, 2 << 20)
            yield

    hold = rbd.held
    with mock.patch.object(rbd, 'held', start_and_hold):
        snapshots.Snapshot(snap_driver, stopped).take()
    # The one that ran already at the time is not sure of its file systems.
    assert_cold(glance, before, area, 'crash')
    assert_nothing_left(ceph, disk)
    stopped.assert_untouched()


@pytest.mark.parametrize('step', ('snapshot', 'qemu-nbd', 'upload'))
def test_stopped_server_whose_snapshot_fails(step, snap_driver, glance, ceph,
                                             disk, stopped, area):
    refused = {
        'snapshot': mock.patch.object(
            rbd_utils.RBDDriver, 'create_snap',
            side_effect=rbd_utils.rbd.Error('refused')),
        'qemu-nbd': mock.patch.object(
            qemunbd, 'command', lambda *arguments: ['false'])}
    expected = {'upload': nova_exception.ImageQuotaExceeded}
    if step == 'upload':
        glance.faults = [413]
    with (refused.get(step, contextlib.nullcontext()),
          pytest.raises(expected.get(step, exception.CaptureFailed))):
        snapshots.Snapshot(snap_driver, stopped).take()
    assert glance.deleted
    assert_nothing_left(ceph, disk)
    assert_nothing_staged(area)
    stopped.domain.create()
    stopped.assert_untouched()


def test_recovery_of_a_stopped_server_s_snapshot(snap_driver, glance, ceph,
                                                 disk, stopped, area):
    """Ceph does not let go of it at once: the next start does it."""
    with mock.patch.object(rbd_utils.RBDDriver, 'remove_snap',
                           side_effect=rbd_utils.rbd.Error('busy')):
        snapshots.Snapshot(snap_driver, stopped).take()
    assert len(ceph.listed('snap', 'ls', disk)) == 1

    with mock.patch.object(recovery_images, 'delete_unfinished',
                           return_value=False):
        outcome, = undo.Recovery(undo.Tools(
            snap_driver._host, mock.Mock(), mock.Mock(), 5)).run(
                snap_driver._journal)
    assert outcome.failed == ()
    assert [words for words in outcome.done if words.startswith('removed rbd')]
    assert_nothing_left(ceph, disk)


def test_stopped_server_whose_disk_nova_cannot_reach(snap_driver, glance,
                                                     ceph, stopped, conf):
    conf('images_rbd_pool', 'images', 'libvirt')
    stock = mock.patch.object(driver.LibvirtDriver, 'snapshot')
    with stock as taken:
        snapshots.Snapshot(snap_driver, stopped).take()
    taken.assert_called_once()


@pytest.fixture
def caps(ceph, conf):
    """Sets what Nova's user may do, until the end of the test."""
    def allow(osd):
        ceph.command('auth', 'caps', 'client.' + lab_ceph.NOVA,
                     'mon', 'profile rbd', 'osd', osd)

    conf('images_type', 'rbd', 'libvirt')
    conf('images_rbd_pool', 'vms', 'libvirt')
    conf('images_rbd_ceph_conf', str(ceph.conf), 'libvirt')
    conf('rbd_user', lab_ceph.NOVA, 'libvirt')
    stored = [{'type': 'file', 'properties': {}}, {
        'type': 'rbd', 'properties': {'pool': 'images', 'fsid': ceph.fsid}}]
    with (mock.patch.object(recovery_images, 'service_context'),
          mock.patch.object(glance_api.GlanceClientWrapper, 'call',
                            return_value={'stores': stored})):
        yield allow
    allow(ALL)


@pytest.mark.parametrize('allowed, words', (
    (ALL, ()),
    # As Ceph's own documentation gives it to Nova.
    ('profile rbd pool=vms, profile rbd-read-only pool=images',
     ('pool images', 'can copy', "osd 'profile rbd pool=images'")),
    ('allow rw pool=vms, profile rbd pool=images', ('pool vms', 'disks')),
    ('profile rbd pool=vms', ('pool images', 'can copy'))))
def test_check_names_the_caps_that_are_missing(caps, allowed, words):
    caps(allowed)
    found = storage.ceph_lacks()
    assert bool(found) == bool(words)
    assert all(word in found for word in words)


def test_check_of_the_pool_that_images_are_written_into(caps, conf):
    conf('images_type', 'default', 'libvirt')
    conf('destination', 'rbd', 'snapdriver')
    conf('rbd_pool', 'images', 'snapdriver')
    caps('profile rbd pool=vms')
    assert storage.ceph_lacks().startswith('client.nova in the pool images')
    conf('rbd_user', lab_ceph.GLANCE, 'snapdriver')
    assert storage.ceph_lacks() == ''


def test_check_leaves_nothing_in_ceph(caps, ceph):
    before = clusters.images(ceph)
    assert storage.ceph_lacks() == ''
    assert clusters.images(ceph) == before

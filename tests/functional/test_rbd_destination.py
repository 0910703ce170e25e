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

"""Images that are written into a real Ceph; only Glance has a stand-in."""

import contextlib
import json
import os
import signal
from unittest import mock

from nova import exception as nova_exception
import pytest

from lab.openstack import ceph as lab_ceph
from lab.openstack import process as lab_process
from nova_snapdriver.capture import direct
from nova_snapdriver import exception
from nova_snapdriver import journal
from nova_snapdriver.transfer import body
from nova_snapdriver.transfer import process
from tests.functional import clusters
from tests.functional import disks
from tests.functional import domains
from tests.functional import snapshots

SIZE = 64 << 20
OBJECT = 8 << 20
# Users of Ceph that may do too little in the pool.
MAY = {'reader': 'profile rbd-read-only pool=images',
       # To protect a snapshot is a method of a class in the OSD.
       'writer': 'allow rw pool=images'}


@pytest.fixture(scope='module')
def connection(connection_with_events):
    return connection_with_events


@pytest.fixture(scope='module')
def ceph():
    with clusters.running() as cluster:
        yield cluster


@pytest.fixture
def store(ceph, conf, glance):
    """The pool of Glance's store, with nothing but the base at the end."""
    conf('snapshot_image_format', 'raw', 'libvirt')
    for name, value in (('destination', 'rbd'), ('rbd_pool', 'images'),
                        ('rbd_user', lab_ceph.GLANCE),
                        ('rbd_ceph_conf', str(ceph.conf))):
        conf(name, value, 'snapdriver')
    glance.located_size = disks.ODD_SIZE
    conf('rbd_destroy_volume_retries', 40, 'libvirt')
    conf('rbd_destroy_volume_retry_interval', 1, 'libvirt')
    yield ceph
    if clusters.COPY in clusters.images(ceph):
        ceph.rbd('snap', 'unprotect', clusters.COPY + '@snap')
        ceph.rbd('snap', 'purge', clusters.COPY)
        ceph.rbd('rm', clusters.COPY)


@pytest.fixture
def guest(area, start_domain):
    return start_domain(disks.make_qcow2(area, None))


def take(snap_driver, guest):
    snapshots.Snapshot(snap_driver, guest).take()


def assert_uploaded(glance, ceph):
    """Glance has got the image itself, and there is none of ours."""
    assert glance.image['status'] == 'active'
    assert glance.location is None
    assert len(glance.uploads) == 1
    assert clusters.images(ceph) == [clusters.BASE]


def assert_same(ceph, area, disk, file_format='qcow2'):
    image = clusters.export(ceph, clusters.COPY + '@snap', area / 'image')
    domains.run('qemu-img', 'compare', '-U', '-f', 'raw', '-F', file_format,
                image, disk)


def stored(ceph):
    return json.loads(ceph.rbd('info', clusters.COPY, '--format', 'json'))


@pytest.mark.parametrize('verify', (True, False))
def test_live(verify, snap_driver, glance, store, guest, area, conf):
    conf('verify', verify, 'snapdriver')
    take(snap_driver, guest)
    assert glance.uploads == []
    assert glance.image['status'] == 'active'
    assert glance.image['disk_format'] == 'raw'
    assert glance.image['snapdriver_path'] == 'live'
    assert glance.location == 'rbd://%s/%s/snap' % (store.fsid, clusters.COPY)
    assert_same(store, area, area / 'disk.qcow2')
    snapshots.assert_clean(guest, area)


def test_image_is_as_the_store_of_glance_makes_it(snap_driver, store, guest):
    """Of the default features, in objects of 8 MiB, and thin."""
    take(snap_driver, guest)
    found = stored(store)
    store.rbd('create', 'vms/default', '--size', '1M')
    like = json.loads(store.rbd('info', 'vms/default', '--format', 'json'))
    store.rbd('rm', 'vms/default')
    assert found['features'] == like['features']
    assert found['object_size'] == OBJECT
    snapshot, = json.loads(store.rbd('snap', 'ls', clusters.COPY, '--format',
                                     'json'))
    assert (snapshot['name'], snapshot['protected']) == ('snap', 'true')
    store.rbd('clone', clusters.COPY + '@snap', 'vms/clone')
    store.rbd('rm', 'vms/clone')


def test_mirror(snap_driver, glance, store, guest, conf, area):
    conf('live_method', 'mirror', 'snapdriver')
    take(snap_driver, guest)
    assert glance.uploads == []
    assert glance.image['snapdriver_path'] == 'mirror'
    assert_same(store, area, area / 'disk.qcow2')


def test_stopped_server(snap_driver, glance, store, guest, area):
    guest.domain.destroy()
    take(snap_driver, guest)
    assert glance.uploads == []
    assert glance.image['snapdriver_path'] == 'cold'
    assert_same(store, area, area / 'disk.qcow2')


def test_image_that_is_to_be_qcow2_is_uploaded(snap_driver, glance, store,
                                               guest, conf):
    conf('snapshot_image_format', 'qcow2', 'libvirt')
    take(snap_driver, guest)
    assert_uploaded(glance, store)


@pytest.mark.parametrize('fault', ('Glance', 'user', 'pool', 'cluster',
                                   'no pool', *MAY))
def test_refusal(fault, snap_driver, glance, store, guest, conf, area):
    """The same state of the disk is uploaded."""
    if fault == 'Glance':
        glance.location_fault = 403
    elif fault in MAY:
        store.make_user(fault, mon='profile rbd', osd=MAY[fault])
        conf('rbd_user', fault, 'snapdriver')
    else:
        name, value = {'user': ('rbd_user', 'nobody'),
                       'pool': ('rbd_pool', 'elsewhere'),
                       'cluster': ('rbd_ceph_conf', '/nowhere'),
                       'no pool': ('rbd_pool', '')}[fault]
        conf(name, value, 'snapdriver')
    take(snap_driver, guest)
    assert_uploaded(glance, store)
    snapshots.assert_clean(guest, area)


def test_full_pool(snap_driver, glance, store, guest, area):
    """It is not waited for until there is room."""
    with full(store):
        take(snap_driver, guest)
        assert_uploaded(glance, store)
    snapshots.assert_clean(guest, area)


@contextlib.contextmanager
def full(ceph):
    def is_full():
        return 'POOL_FULL' in ceph.command('health', 'detail')

    def quota(objects):
        ceph.command('osd', 'pool', 'set-quota', 'images', 'max_objects',
                     str(objects))

    quota(1)
    try:
        lab_process.wait_for('a full pool', is_full, 60)
        yield
    finally:
        quota(0)
        lab_process.wait_for('room in the pool', lambda: not is_full(), 60)


def test_ceph_that_does_not_answer(snap_driver, glance, store, guest, conf,
                                   area):
    """It is not waited for, and a recovery removes what is there."""
    conf('upload_stall_timeout', 10, 'snapdriver')
    # Until it takes a writer that has not closed its image for gone.
    store.command('config', 'set', 'osd', 'osd_client_watch_timeout', '5')
    osd = store.daemons['osd'].record().pid
    try:
        with mock.patch.object(process.Request, 'command',
                               changed(STOPS_OSD % osd)):
            take(snap_driver, guest)
    finally:
        os.kill(osd, signal.SIGCONT)
    assert glance.image['status'] == 'active'
    assert glance.location is None
    guest.assert_untouched()
    clusters.recover(snap_driver, False)
    assert clusters.images(store) == [clusters.BASE]


# The OSD stops once the image is there.
STOPS_OSD = """
import os, signal, sys
from nova_snapdriver.stream import ceph
real = ceph.Image.write
def write(self, content, offset):
    os.kill(%d, signal.SIGSTOP)
    real(self, content, offset)
ceph.Image.write = write
from nova_snapdriver.stream import __main__ as program
status = program.main()
os._exit(status)
"""


def test_store_that_gives_something_else(snap_driver, glance, store, guest,
                                         area):
    """Bits that are flipped in the pool are seen before Glance is told."""
    with mock.patch.object(process.Request, 'command', changed(FLIPPED)):
        with pytest.raises(exception.VerifyFailed):
            take(snap_driver, guest)
    assert glance.deleted
    assert glance.location is None
    assert clusters.images(store) == [clusters.BASE]
    snapshots.assert_clean(guest, area)


# What the pool gives has one bit flipped.
FLIPPED = """
from nova_snapdriver.stream import ceph
real = ceph.Image.read
def read(self, offset, length):
    content = bytearray(real(self, offset, length))
    content[-1] ^= 1
    return bytes(content)
ceph.Image.read = read
import sys
from nova_snapdriver.stream import __main__ as program
sys.exit(program.main())
"""


def changed(code):
    """The command of a stream process that does something else."""
    real = process.Request.command

    def command(request):
        words = real(request)
        at = words.index('-m')
        return [*words[:at], '-c', code, *words[at + 2:]]

    return command


def test_image_that_is_deleted_meanwhile(snap_driver, glance, store, guest):
    real = body.ImageBody.store

    def store_and_delete(one):
        real(one)
        glance.deleted = True
        glance.location_fault = 404

    with mock.patch.object(body.ImageBody, 'store', store_and_delete):
        with pytest.raises(nova_exception.ImageNotFound):
            take(snap_driver, guest)
    assert glance.uploads == []
    assert clusters.images(store) == [clusters.BASE]


class Crash(BaseException):
    """The end of nova-compute: nothing of its own runs any more."""


@pytest.mark.parametrize('image_there', (True, False))
def test_recovery_after_a_crash(image_there, snap_driver, glance, store, guest,
                                area):
    """Killed once all is written: the image goes, unless Glance has it."""
    kept = mock.patch.object(journal.Record, '__exit__',
                             lambda record, *exc: record.close())
    no_undoing = mock.patch.object(direct, 'removed_on_error',
                                   lambda *arguments: contextlib.nullcontext())
    dies = mock.patch('nova_snapdriver.transfer.image.Image.refer',
                      side_effect=Crash)
    with kept, no_undoing, dies, pytest.raises(Crash):
        take(snap_driver, guest)
    assert clusters.COPY in clusters.images(store)

    clusters.recover(snap_driver, image_there)
    assert (clusters.COPY in clusters.images(store)) == image_there
    guest.assert_untouched()


def test_guest_cannot_pass_a_disk_off_as_another_format(
        snap_driver, glance, store, area, start_domain):
    """Glance does not look into data it is only told of: the driver does."""
    path = area / 'disk.raw'
    domains.run('qemu-img', 'create', '-q', '-f', 'raw', path, str(SIZE))
    domains.run('qemu-img', 'create', '-q', '-f', 'qcow2', area / 'bad',
                '-b', '/etc/passwd', '-F', 'raw', str(SIZE))
    with open(path, 'r+b') as disk:
        disk.write((area / 'bad').read_bytes()[:512])
    guest = start_domain((path, 'raw'))
    with pytest.raises(exception.ImageRefused):
        take(snap_driver, guest)
    assert glance.deleted
    assert clusters.images(store) == [clusters.BASE]

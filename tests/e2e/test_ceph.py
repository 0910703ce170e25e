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

"""Servers with their disks on Ceph, and Glance's images there, too, or not."""

import json

import pytest

from lab.observe import inspect
from lab.observe import measure
from lab.observe import watch
from lab.openstack import ceph as lab_ceph
from lab.openstack import cloud
from lab.openstack import config
from lab.openstack import process
from lab.openstack import stack
from tests.e2e import checks

# A cluster, restarts and a server: much, before the first test begins.
pytestmark = pytest.mark.timeout(900)

# Not for the other tests to remove: a Glance without its store cannot.
NAME = 'snapdriver-ceph'
TIMEOUT = 120
# Seconds that Nova gives a guest to shut down, which this one does not do.
SHUTDOWN = {'os_shutdown_timeout': '1'}
ON_CEPH = config.Images(('rbd', 'file'))
IN_FILES = config.Images(('file', 'rbd'))
# State: the action into it, the status there, the action back.
STATES = {'running': None, 'paused': ('pause', 'PAUSED', 'unpause'),
          'stopped': ('os-stop', 'SHUTOFF', 'os-start')}
CONSISTENCY = {'running': 'filesystem', 'paused': 'crash',
               'stopped': 'offline'}


@pytest.fixture(scope='module')
def ceph(lab):
    """The lab with its disks on Ceph, for as long as these tests take."""
    lab.images(ON_CEPH)
    remove(lab)
    lab.compute(config.Compute(rbd=True))
    yield lab.ceph
    remove(lab)
    lab.compute(config.Compute())
    lab.images(config.Images())
    lab.ceph.stop()


def remove(lab):
    for one in cloud.named(lab.cloud.servers(), NAME):
        lab.cloud.delete_server(one['id'])
    for image in cloud.named(lab.cloud.images(), NAME):
        lab.cloud.delete_image(image['id'])


@pytest.fixture(scope='module')
def boot(lab, ceph):
    """Boots servers that write."""
    def booted(name, image_id):
        made = lab.cloud.new_server(f'{NAME}-{name}', image_id,
                                    stack.SMALL_FLAVOR)
        lab.cloud.wait_server(made)
        server = measure.server(lab.cloud, made)
        server.wait_up(TIMEOUT)
        return server

    return booted


@pytest.fixture(scope='module')
def clone(lab, ceph, boot):
    """A server whose image is in the cluster: its disk is a clone of it."""
    lab.images(ON_CEPH)
    server = boot('clone', lab.small_image(f'{NAME}-base', 'raw', **SHUTDOWN))
    assert 'parent: images/' in ceph.rbd('info', disk(server))
    return server


@pytest.fixture(scope='module')
def copy(lab, ceph, boot):
    """A server whose image is in a file: its disk is a copy of it."""
    lab.images(IN_FILES)
    server = boot('copy', lab.small_image(f'{NAME}-file', **SHUTDOWN))
    assert 'parent:' not in ceph.rbd('info', disk(server))
    return server


def disk(server):
    return f'{lab_ceph.DISKS}/{server.id}_disk'


class Taken:
    """A snapshot of a server in one of the states, and what it left."""

    def __init__(self, lab, server, state, tmp_path):
        self.lab, self.server, self.state = lab, server, state
        self.copies = set(lab.ceph.listed('ls', lab_ceph.IMAGES))
        self.log = measure.Said(lab.settings.log('nova-compute'))
        self.path = tmp_path / 'image'
        self._into()
        try:
            self._take()
            self._nothing_left()
            self._compare(tmp_path)
        finally:
            self._back()

    def _into(self):
        status = 'ACTIVE'
        if STATES[self.state]:
            action, status, _ = STATES[self.state]
            self.lab.cloud.action(self.server.id, action)
            self.lab.cloud.wait_server(self.server.id, status)
        self.status = status

    def _take(self):
        api = self.lab.cloud
        with watch.Watch(self.server.domain.name,
                         self.lab.settings.snapshots) as seen:
            image_id = api.action(self.server.id, 'createImage',
                                  name=f'{NAME}-image')['image_id']
            self.image = api.wait_image(image_id)
            api.wait_server(self.server.id, self.status)
        assert seen.stopped_seconds() == 0
        assert self.image['disk_format'] == 'raw'
        assert self.image['instance_uuid'] == self.server.id
        told = self.image['snapdriver_consistency']
        assert told == CONSISTENCY[self.state]

    def _nothing_left(self):
        assert self.lab.ceph.listed('snap', 'ls', disk(self.server)) == []
        assert not list(self.lab.settings.snapshots.iterdir())
        assert not self.server.domain.has_backup_job()
        assert self.server.domain.persistent()
        self.made = set(self.lab.ceph.listed('ls', lab_ceph.IMAGES))
        self.made -= self.copies

    def _compare(self, tmp_path):
        self.lab.cloud.download(self.image['id'], self.path)
        if self.state == 'running':
            _, wrong = inspect.image(self.path, 'raw', tmp_path / 'inspect',
                                     replay=False)
            assert not wrong
            return
        exported = self.lab.ceph.export(disk(self.server), tmp_path / 'disk')
        process.output('qemu-img', 'compare', '-f', 'raw', '-F', 'raw',
                       str(self.path), str(exported), timeout=300)

    def _back(self):
        console = measure.Console(self.server.console, from_end=True)
        if STATES[self.state]:
            self.lab.cloud.action(self.server.id, STATES[self.state][2])
            self.lab.cloud.wait_server(self.server.id)
        console.wait(measure.BEAT, TIMEOUT)
        self.server.domain.wait_agent()


def test_check_finds_nothing_wrong(lab, ceph):
    assert checks.wrong(lab) == {}


@pytest.mark.parametrize('state', STATES)
def test_glance_on_the_same_cluster(lab, ceph, clone, boot, tmp_path, state):
    lab.images(ON_CEPH)
    taken = Taken(lab, clone, state, tmp_path)
    image_id = taken.image['id']

    assert taken.image['snapdriver_path'] == 'direct'
    assert taken.made == {image_id}
    name = f'{lab_ceph.IMAGES}/{image_id}'
    assert 'parent:' not in ceph.rbd('info', name), 'it was not flattened'
    assert ceph.listed('snap', 'ls', name) == ['snap']
    if state == 'running':
        assert_boots(lab, ceph, boot, image_id)
    lab.cloud.delete_image(image_id)
    assert image_id not in ceph.listed('ls', lab_ceph.IMAGES)


def assert_boots(lab, ceph, boot, image_id):
    """Glance has all of it: a server is cloned from it, and is whole."""
    second = boot('second', image_id)
    said = measure.Console(second.console).wait(measure.RESTORED, TIMEOUT)
    assert 'journal=ok payload=ok fs=ok' in said[1]
    assert f'parent: images/{image_id}@snap' in ceph.rbd('info', disk(second))
    lab.cloud.delete_server(second.id)
    assert f'{second.id}_disk' not in ceph.listed('ls', lab_ceph.DISKS)


@pytest.mark.parametrize('state', ('running', 'stopped'))
def test_glance_refuses_the_copy(lab, ceph, clone, tmp_path, state):
    """Nothing of it is left, and the disk is read."""
    lab.images(config.Images(ON_CEPH.stores, ('add_image_location',)))
    taken = Taken(lab, clone, state, tmp_path)

    assert taken.log.matches('Ceph or Glance refused a direct snapshot')
    path = 'cold' if state == 'stopped' else 'live'
    assert taken.image['snapdriver_path'] == path
    # What Glance has made of the upload.
    assert taken.made == {taken.image['id']}
    lab.cloud.delete_image(taken.image['id'])
    assert taken.image['id'] not in ceph.listed('ls', lab_ceph.IMAGES)


@pytest.mark.parametrize('state', ('running', 'stopped'))
def test_glance_elsewhere(lab, ceph, copy, tmp_path, state):
    lab.images(IN_FILES)
    taken = Taken(lab, copy, state, tmp_path)

    path = 'cold' if state == 'stopped' else 'live'
    assert taken.image['snapdriver_path'] == path
    assert taken.made == set()
    lab.cloud.delete_image(taken.image['id'])


@pytest.fixture(scope='module')
def written(lab, ceph, copy):
    """Images are written into Glance's pool, as Glance's user of Ceph."""
    lab.images(ON_CEPH)
    lab.compute(config.Compute(rbd=True, options=(
        ('snapdriver', 'destination', 'rbd'),
        ('snapdriver', 'rbd_pool', lab_ceph.IMAGES),
        ('snapdriver', 'rbd_user', lab_ceph.GLANCE))))
    yield copy
    lab.compute(config.Compute(rbd=True))


@pytest.mark.parametrize('state', ('running', 'stopped'))
def test_written_into_the_pool(lab, ceph, written, boot, tmp_path, state):
    taken = Taken(lab, written, state, tmp_path)

    image_id = taken.image['id']
    assert taken.log.matches('Snapshot destination: rbd')
    assert taken.log.matches('Snapshot uploaded and verified')
    path = 'cold' if state == 'stopped' else 'live'
    assert taken.image['snapdriver_path'] == path
    assert taken.made == {image_id}
    if state == 'running':
        assert_boots(lab, ceph, boot, image_id)
    else:
        # An upload of the same bytes: what Glance itself makes of them.
        uploaded = lab.cloud.new_image(f'{NAME}-like', 'raw')
        lab.cloud.put(uploaded, taken.path)
        assert made(ceph, image_id) == made(ceph, uploaded)
        lab.cloud.delete_image(uploaded)
    lab.cloud.delete_image(image_id)
    assert image_id not in ceph.listed('ls', lab_ceph.IMAGES)


def made(ceph, image_id):
    """What an image in the pool is, but for its name and its time."""
    name = f'{lab_ceph.IMAGES}/{image_id}'
    found = json.loads(ceph.rbd('info', name, '--format', 'json'))
    snapshots, = json.loads(ceph.rbd('snap', 'ls', name, '--format', 'json'))
    return ({key: found[key] for key in (
        'size', 'order', 'object_size', 'features', 'flags')},
        snapshots['name'], snapshots['size'], snapshots['protected'])


def test_servers_are_deleted_afterwards(lab, ceph, clone, copy):
    for server in (clone, copy):
        lab.cloud.delete_server(server.id)
    assert ceph.listed('ls', lab_ceph.DISKS) == []

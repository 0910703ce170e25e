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

"""Sites that differ from the lab: what their Glance takes, and inherits."""

import copy

import pytest

from lab.openstack import config
from lab.openstack import domain
from lab.openstack import process
from lab.openstack import stack
from tests.e2e import checks

LABELS = {'snapdriver_path', 'snapdriver_consistency',
          'snapdriver_captured_at'}
SLEEP_TIMEOUT = 60
VMDK = (('libvirt', 'snapshot_image_format', 'vmdk'),)


@pytest.fixture(scope='module')
def server(small):
    return small(name='site')


def properties(lab, image_id):
    """The image's properties, as Glance counts them."""
    image = lab.cloud.call('GET', 'image', f'/images/{image_id}')
    schema = lab.cloud.call('GET', 'image', '/schemas/image')
    return set(image) - set(schema['properties'])


@pytest.fixture(scope='module')
def labelled(lab, server):
    """A snapshot where Glance takes everything."""
    image_id = checks.create_image(lab, server)
    lab.cloud.wait_image(image_id)
    assert properties(lab, image_id) >= LABELS
    return image_id


@pytest.fixture(autouse=True)
def compute(lab):
    yield
    lab.compute(config.Compute())


@pytest.fixture
def glance(lab):
    """Glance with other options for the test."""
    yield lambda **options: lab.images(config.Images(**options))
    lab.images(config.Images())


def test_properties_that_are_protected(lab, server, labelled, glance,
                                       tmp_path):
    glance(protected=('^snapdriver_.*',))
    image, _ = checks.assert_whole(lab, checks.create_image(lab, server),
                                   tmp_path)
    assert properties(lab, image['id']) == (
        properties(lab, labelled) - LABELS)
    checks.assert_goes_on(lab, server)


def test_quota_of_properties(lab, server, labelled, glance, tmp_path):
    enough = properties(lab, labelled) - LABELS
    glance(options=(('DEFAULT', 'image_property_quota', str(len(enough))),))
    image, _ = checks.assert_whole(lab, checks.create_image(lab, server),
                                   tmp_path)
    assert properties(lab, image['id']) == enough
    checks.assert_goes_on(lab, server)


def test_labels_are_not_inherited_by_a_snapshot_of_novas_own(
        lab, labelled, small):
    second = small(labelled, name='inheriting')
    lab.compute(config.Compute(options=VMDK))
    image = lab.cloud.wait_image(checks.create_image(lab, second))
    assert image['disk_format'] == 'vmdk'
    assert not properties(lab, image['id']) & LABELS


def test_cache_directory_that_was_renamed(lab, server, tmp_path):
    """[image_cache] subdirectory_name, after the server was made."""
    lab.compute(config.Compute(options=(
        ('image_cache', 'subdirectory_name', '_base_of_this_host'),)))
    checks.stop(lab, server)
    image = lab.cloud.wait_image(checks.create_image(lab, server))
    assert image['snapdriver_path'] == 'cold'
    checks.assert_copy(lab, image['id'], server, tmp_path)
    checks.start(lab, server)


def test_guest_that_sleeps(lab, server):
    """Its QEMU holds the disk, and its agent does not answer."""
    server.domain.wait_agent()
    server.domain.agent('guest-exec', path='/bin/sh',
                        arg=['-c', 'echo mem > /sys/power/state'])
    process.wait_for('the sleep', lambda: (
        server.domain.state() == 'pmsuspended'), SLEEP_TIMEOUT)
    image = lab.cloud.wait_image(checks.create_image(lab, server))
    assert image['snapdriver_path'] == 'live'
    assert image['snapdriver_consistency'] == 'crash'
    assert server.domain.state() == 'pmsuspended'
    domain.virsh('dompmwakeup', server.domain.name)
    checks.assert_goes_on(lab, server)


@pytest.fixture
def upload(lab, tmp_path):
    """Uploads an image of another kind than others are."""
    made = []

    def run(kind, container, *command):
        """:param command: makes the file, in the place of None"""
        path = tmp_path / 'image'
        process.output(*(path if word is None else word for word in command))
        made.append(lab.cloud.call('POST', 'image', '/images', {
            'name': f'{checks.NAME}-{kind}', 'disk_format': kind,
            'container_format': container,
            **lab.boot_properties()})['id'])
        lab.cloud.put(made[-1], path)
        return made[-1]

    yield run
    for image_id in made:
        lab.cloud.delete_image(image_id)


def test_server_of_an_amazon_machine_image(lab, small, upload, tmp_path):
    image_id = upload('ami', 'ami', 'qemu-img', 'convert', '-f', 'qcow2',
                      '-O', 'raw', lab.guest.small_disk, None)
    server = small(image_id, name='ami')
    image, _ = checks.assert_whole(lab, checks.create_image(lab, server),
                                   tmp_path)
    assert image['snapdriver_path'] == 'live'
    assert image['container_format'] == 'ami'
    checks.assert_goes_on(lab, server)


def test_server_that_booted_from_an_iso(lab, upload, tmp_path):
    """Its root device is a CD-ROM, which Nova's own driver copies."""
    (tmp_path / 'content').mkdir()
    image_id = upload('iso', 'bare', 'genisoimage', '-quiet', '-o', None,
                      tmp_path / 'content')
    server_id = lab.cloud.new_server(f'{checks.NAME}-iso', image_id,
                                     stack.SMALL_FLAVOR)
    try:
        lab.cloud.wait_server(server_id)
        taken = lab.cloud.action(server_id, 'createImage',
                                 name=f'{checks.NAME}-of-iso')['image_id']
        image = lab.cloud.wait_image(taken)
        assert not properties(lab, image['id']) & LABELS
        checks.assert_nothing_left(lab)
    finally:
        lab.cloud.delete_server(server_id)


@pytest.fixture
def tenant(lab):
    """The API in another project."""
    identity = lab.cloud.sdk.identity
    project = identity.create_project(name=f'{checks.NAME}-tenant')
    identity.assign_project_role_to_user(
        project, identity.find_user('admin'), identity.find_role('admin'))
    other = copy.copy(lab.cloud)
    other.__dict__['sdk'] = lab.cloud.sdk.connect_as_project(project.name)
    yield other
    identity.delete_project(project)


def test_administrator_who_shelves_a_tenants_server(lab, tenant):
    """The image is the administrator's, shared with the tenant."""
    server_id = tenant.new_server(f'{checks.NAME}-tenants', lab.small_image(
        f'{checks.NAME}-public', visibility='public'), stack.SMALL_FLAVOR)
    try:
        lab.cloud.wait_server(server_id)
        lab.cloud.action(server_id, 'shelve')
        lab.cloud.wait_server(server_id, 'SHELVED_OFFLOADED')
        [image] = lab.cloud.images(f'{checks.NAME}-tenants-shelved')
        assert image['snapdriver_path'] == 'cold'
        assert image['status'] == 'active'
        checks.assert_nothing_left(lab)
        lab.cloud.action(server_id, 'unshelve')
        lab.cloud.wait_server(server_id)
    finally:
        lab.cloud.delete_server(server_id)

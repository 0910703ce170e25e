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

"""Server actions that take snapshots, of servers in several states."""

import pytest

from lab.openstack import process
from tests.e2e import checks

NAME = checks.NAME
ROTATION_TIMEOUT = 60


@pytest.fixture(scope='module')
def server(small):
    return small()


def test_multibyte_names(lab, small, tmp_path):
    named = small(name='сервер-\N{SNOWMAN}')
    name = f'{NAME}-образ-\N{SNOWMAN}'
    image, _ = checks.assert_whole(
        lab, checks.create_image(lab, named, name), tmp_path)
    assert image['name'] == name
    checks.assert_goes_on(lab, named)


def test_two_servers_at_once(lab, server, small, tmp_path):
    both = [server, small(name='second')]
    images = [checks.create_image(lab, one) for one in both]
    for one, image_id in zip(both, images):
        image, _ = checks.assert_whole(lab, image_id, tmp_path)
        assert image['instance_uuid'] == one.id
        checks.assert_goes_on(lab, one)


def test_a_backup_with_rotation(lab, server, tmp_path):
    for number in range(2):
        lab.cloud.action(server.id, 'createBackup', name=f'{NAME}-{number}',
                         backup_type=NAME, rotation=1)
        lab.cloud.wait_server(server.id)

    def kept():
        return [image for image in lab.cloud.images()
                if image.get('backup_type') == NAME]

    # Nova deletes the oldest after the server's task has ended.
    process.wait_for('the rotation', lambda: len(kept()) == 1,
                     ROTATION_TIMEOUT)
    (image,) = kept()
    assert image['name'] == f'{NAME}-1'
    assert image['snapdriver_path'] == 'live'
    checks.assert_whole(lab, image['id'], tmp_path)
    checks.assert_goes_on(lab, server)


@pytest.mark.parametrize('stop, status, start, consistency', (
    ('os-stop', 'SHUTOFF', 'os-start', 'offline'),
    ('suspend', 'SUSPENDED', 'resume', 'crash')))
def test_a_server_that_does_not_run(lab, server, tmp_path, stop, status,
                                    start, consistency):
    """Its disk is read where it is, and its memory is not touched."""
    lab.cloud.action(server.id, stop)
    lab.cloud.wait_server(server.id, status)
    image = lab.cloud.wait_image(checks.create_image(lab, server))
    lab.cloud.wait_server(server.id, status)

    assert image['snapdriver_path'] == 'cold'
    assert image['snapdriver_consistency'] == consistency
    checks.assert_nothing_left(lab)
    checks.assert_copy(lab, image['id'], server, tmp_path)
    lab.cloud.action(server.id, start)
    checks.assert_goes_on(lab, server)

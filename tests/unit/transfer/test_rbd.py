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

"""Where an image in Ceph is to be. Ceph and Glance are stand-ins."""

import types
from unittest import mock

import pytest

from nova_snapdriver import exception
from nova_snapdriver.transfer import process
from nova_snapdriver.transfer import rbd

FSID = 'e7c1ffcc-9042-4c04-9731-81113b34b32a'
BASE = {'locations': [{'url': 'file:///var/lib/glance/base'},
                      {'url': f'rbd://{FSID}/glance-images/base/snap'}]}


@pytest.fixture
def conf():
    return types.SimpleNamespace(snapdriver=types.SimpleNamespace(
        rbd_pool='', upload_stall_timeout=300, verify=True))


def located(conf, image, fsid=FSID):
    api = mock.Mock()
    api.get.return_value = image
    ceph = mock.Mock(rbd_user='cinder', ceph_conf='/etc/ceph/ceph.conf')
    ceph.get_fsid.return_value = fsid
    with mock.patch.object(rbd, 'driver', return_value=ceph) as driver:
        target = rbd.locate(conf, 'context', api, 'base', 'image')
    assert driver.mock_calls[0] == mock.call(conf, target.pool)
    return api, target


def test_pool_is_that_of_the_base_image(conf):
    api, target = located(conf, BASE)
    api.get.assert_called_once_with('context', 'base',
                                    include_locations=True)
    assert target == process.Target(
        FSID, 'glance-images', 'image', 'cinder', '/etc/ceph/ceph.conf', 300,
        True)
    assert rbd.url(target) == f'rbd://{FSID}/glance-images/image/snap'


def test_pool_that_is_named(conf):
    """Glance need not show where images are."""
    conf.snapdriver.rbd_pool = 'images'
    api, target = located(conf, None)
    api.get.assert_not_called()
    assert target.pool == 'images'


@pytest.mark.parametrize('image, words', (
    ({}, 'rbd_pool can name'), ({'locations': []}, 'rbd_pool can name'),
    ({'locations': BASE['locations'][:1]}, 'not in Ceph')))
def test_base_image_that_is_not_seen_in_ceph(conf, image, words):
    with pytest.raises(exception.DirectRefused, match=words):
        located(conf, image)


def test_base_image_in_another_cluster(conf):
    with pytest.raises(exception.DirectRefused, match='cluster ' + FSID):
        located(conf, BASE, 'another')

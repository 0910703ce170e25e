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

"""What Glance says of its stores is asked for, and may be hidden."""

import contextlib
import types
from unittest import mock

import nova.conf
from nova.image import glance
import pytest

from nova_snapdriver.compute import storage
from nova_snapdriver import conf
from nova_snapdriver.recovery import images

conf.register_opts(nova.conf.CONF)
STORES = [
    {'id': 'files', 'type': 'file', 'properties': {'data_dir': '/images'}},
    {'id': 'here', 'type': 'rbd',
     'properties': {'pool': 'images', 'fsid': 'f'}},
    {'id': 'there', 'type': 'rbd',
     'properties': {'pool': 'far', 'fsid': 'another'}},
    {'id': 'old', 'type': 'rbd', 'properties': {'pool': 'old'}}]


@pytest.fixture
def asked(monkeypatch):
    """Glance's wrapper, on a host whose Ceph cluster is f."""
    @contextlib.contextmanager
    def connected(driver):
        yield types.SimpleNamespace(get_fsid=lambda: 'f')

    monkeypatch.setattr(storage, '_connected', connected)
    monkeypatch.setattr(images, 'service_context', lambda: None)
    with mock.patch.object(glance.GlanceClientWrapper, 'call') as call:
        call.return_value = {'stores': STORES}
        yield call


def test_pools_of_stores_that_may_be_in_the_same_cluster(asked):
    assert storage._glance_pools(None) == ['images', 'old']


def test_glance_that_does_not_tell(asked):
    asked.side_effect = PermissionError('for admins only')
    assert storage._glance_pools(None) == []


def test_ceph_is_not_asked_where_nothing_is_in_it(monkeypatch):
    monkeypatch.setattr(storage, '_connected', pytest.fail)
    assert storage.ceph_lacks() == ''

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

"""The store of Glance's that an image goes into."""

import pytest

from nova_snapdriver import exception
from tests.functional import disks
from tests.functional import snapshots

STORES = [{'id': 'fast', 'default': 'true'}, {'id': 'deep'},
          {'id': 'web', 'read-only': 'true'}]


@pytest.fixture
def guest(area, start_domain):
    return start_domain(disks.make_qcow2(area, None))


def header(glance):
    return glance.headers[0].get('x-image-meta-store')


@pytest.mark.quick
@pytest.mark.parametrize('option, base, expected', (
    ('', 'deep', None),
    ('deep', 'fast', 'deep'),
    ('fast', 'deep', 'fast'),
    ('base', 'deep', 'deep'),
    ('base', 'web,deep,fast', 'deep'),
    # Their images go where Glance puts them by itself.
    ('base', 'web', None),
    ('base', 'removed', None),
    ('base', None, None)))
def test_store(option, base, expected, snap_driver, glance, guest, conf,
               area):
    glance.stores = STORES
    if base is not None:
        # The fake has one image, the base of the server as well.
        glance.image['stores'] = base
    conf('store', option, 'snapdriver')
    snapshots.Snapshot(snap_driver, guest).take()
    assert header(glance) == expected
    assert glance.image['status'] == 'active'
    snapshots.assert_clean(guest, area)


@pytest.mark.quick
@pytest.mark.parametrize('option, stores, expected, words', (
    ('depe', STORES, exception.StoreUnknown, 'It has: fast, deep.'),
    ('web', STORES, exception.StoreUnknown, 'It has: fast, deep.'),
    ('deep', None, exception.StoresHidden, 'enabled_backends'),
    ('base', None, exception.StoresHidden, 'enabled_backends')))
def test_unknown_store_fails_before_the_guest_is_touched(
        option, stores, expected, words, snap_driver, glance, guest, conf,
        area):
    glance.stores = stores
    conf('store', option, 'snapdriver')
    with pytest.raises(expected) as caught:
        snapshots.Snapshot(snap_driver, guest).take()
    assert words in str(caught.value)
    assert 'the guest was not touched' in str(caught.value)
    assert glance.deleted
    assert glance.headers == []
    snapshots.assert_clean(guest, area)


@pytest.mark.quick
def test_every_attempt_goes_into_the_store(snap_driver, glance, guest, conf):
    glance.stores = STORES
    glance.faults = [503]
    conf('store', 'deep', 'snapdriver')
    snapshots.Snapshot(snap_driver, guest).take()
    assert [one['x-image-meta-store'] for one in glance.headers] == [
        'deep', 'deep']

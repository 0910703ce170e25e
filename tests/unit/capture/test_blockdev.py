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

import pytest

from nova_snapdriver.capture import blockdev
from nova_snapdriver import exception
from nova_snapdriver import imagebackend

SNAPSHOT = {'driver': 'rbd', 'pool': 'vms', 'image': 'disk', 'snapshot': 's'}


def on_rbd(**changes):
    return imagebackend.Source('network', 'raw', None, rbd=imagebackend.Rbd(
        'vms', 'disk', (('host', ''),), **changes))


@pytest.mark.parametrize('given, told', (
    ({}, {}),
    ({'conf': '/c', 'user': 'nova'}, {'conf': '/c', 'user': 'nova'})))
def test_snapshot_on_rbd(given, told):
    """No key in it: librados finds that itself."""
    assert blockdev.describe([on_rbd(snapshot='s', **given)]) == {
        'driver': 'raw', 'read-only': True, 'file': {**SNAPSHOT, **told}}


@pytest.mark.parametrize('source', (
    on_rbd(), imagebackend.Source('network', 'raw', None)))
def test_disk_on_a_network_that_does_not_hold_still(source):
    with pytest.raises(exception.DiskUnusable):
        blockdev.describe([source])

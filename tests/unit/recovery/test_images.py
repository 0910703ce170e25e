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

from unittest import mock

import pytest

from nova_snapdriver import journal
from nova_snapdriver.recovery import images
from tests.unit import journal_entry

ENTRY = journal_entry.ENTRY
WHOLE = journal.Whole(3, 'sha512', 'cafe')
STORED = {'status': 'active', 'size': 3, 'os_hash_algo': 'sha512',
          'os_hash_value': 'cafe',
          'properties': {'instance_uuid': ENTRY.instance}}


@pytest.fixture
def api():
    with (mock.patch.object(images, '_service_context'),
          mock.patch('nova.image.glance.API', autospec=True) as made):
        yield made.return_value


@pytest.mark.parametrize('changes, whole, path, goes', (
    ({'status': 'queued'}, None, '', True),
    ({'status': 'queued'}, None, 'live', True),
    ({'status': 'saving'}, WHOLE, 'live', True),
    ({'status': 'importing'}, None, 'live', False),
    ({'status': 'deactivated'}, None, 'live', False),
    # Active, and nobody had verified it.
    ({}, WHOLE, 'live', False),
    ({}, None, 'live', True),
    ({}, None, 'mirror', True),
    ({}, None, 'cold', True),
    ({'size': 2}, WHOLE, 'live', True),
    ({'os_hash_value': 'beef'}, WHOLE, 'live', True),
    ({'os_hash_algo': 'sha256', 'os_hash_value': 'beef'}, WHOLE, 'live',
     False),
    # A copy in Ceph or one that Nova's own driver made, which we never sent.
    ({}, None, 'direct', False),
    ({}, None, 'stock', False),
    ({}, None, '', False),
    # Somebody else's.
    ({'status': 'queued', 'properties': {}}, None, 'live', False)))
def test_abandoned_image(api, changes, whole, path, goes, tmp_path):
    api.get.return_value = STORED | changes
    with journal.Journal(str(tmp_path), journal_entry.HOST).begin(
            ENTRY) as record:
        record.note_planned(journal.Planned(path))
        if whole is not None:
            record.note_whole(whole)
        assert images.delete_unfinished(record) == goes
    assert api.delete.called == goes


def stored(name, kind='snapshot', created_at=None):
    status = name.partition(' ')[0]
    return {'id': name, 'status': status, 'created_at': created_at,
            'properties': {'image_type': kind}}


def test_what_is_unfinished_of_an_instance(api):
    api.get_all.return_value = [
        *(stored(status) for status in ('queued', 'saving', 'active',
                                        'importing')),
        stored('queued backup', 'backup'), stored('queued other', 'test'),
        stored('queued upload') | {'properties': {}}]
    assert images.unbegun('server') == ['queued', 'saving', 'queued backup']
    assert api.get_all.call_args.kwargs['filters'] == {
        'instance_uuid': 'server'}

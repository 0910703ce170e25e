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


@pytest.mark.parametrize('changes, whole, clone, goes', (
    ({'status': 'queued'}, None, '', True),
    ({'status': 'saving'}, WHOLE, '', True),
    ({'status': 'importing'}, None, '', False),
    ({'status': 'deactivated'}, None, '', False),
    # Active, and nobody had verified it.
    ({}, WHOLE, '', False),
    ({}, None, '', True),
    ({'size': 2}, WHOLE, '', True),
    ({'os_hash_value': 'beef'}, WHOLE, '', True),
    ({'os_hash_algo': 'sha256', 'os_hash_value': 'beef'}, WHOLE, '', False),
    # A copy in Ceph, which was never sent.
    ({}, None, 'rbd://a/b/c/snap', False),
    # Somebody else's.
    ({'status': 'queued', 'properties': {}}, None, '', False)))
def test_abandoned_image(api, changes, whole, clone, goes, tmp_path):
    api.get.return_value = STORED | changes
    entry = journal.dataclasses.replace(ENTRY, clone=clone)
    with journal.Journal(str(tmp_path)).begin(entry) as record:
        if whole is not None:
            record.note_whole(whole)
        assert images.delete_unfinished(record) == goes
    assert api.delete.called == goes


def test_what_is_unfinished_of_an_instance():
    with mock.patch.object(images.glance, 'API', autospec=True) as api, \
            mock.patch.object(images, '_service_context'):
        api.return_value.get_all.return_value = [
            {'id': status, 'status': status}
            for status in ('queued', 'saving', 'active', 'importing')]
        assert images.unbegun('server') == ['queued', 'saving']
    assert api.return_value.get_all.call_args.kwargs['filters'] == {
        'instance_uuid': 'server', 'image_type': 'snapshot'}

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

from nova_snapdriver import image
from nova_snapdriver import journal
from tests.unit import test_journal

METADATA = {'status': 'active', 'disk_format': 'qcow2', 'properties': {
    'kernel_id': '', 'ramdisk_id': None, 'owner_id': 'p', 'count': 3}}


def changes(found):
    return {change['path']: change['value']
            for change in image._changes(METADATA, found)}


def test_all_is_set_in_an_image_that_has_nothing():
    assert changes({'disk_format': None}) == {
        '/disk_format': 'qcow2', '/owner_id': 'p', '/count': '3'}


def test_just_what_differs_is_changed():
    assert changes({'disk_format': 'qcow2', 'owner_id': 'q', 'count': '3',
                    'min_disk': 7}) == {'/owner_id': 'p'}


@pytest.mark.parametrize('page, words', (
    ('', 'no reason given'),
    ('<html><h1>415</h1>\n<p>Image  failed checks</p></html>',
     '415 Image failed checks'),
    ('x' * 1000, 'x' * 300)))
def test_what_an_error_page_says(page, words):
    assert image._message(page) == words


ENTRY = test_journal.ENTRY
WHOLE = journal.Whole(3, 'sha512', 'cafe')
STORED = {'status': 'active', 'size': 3, 'os_hash_algo': 'sha512',
          'os_hash_value': 'cafe',
          'properties': {'instance_uuid': ENTRY.instance}}


@pytest.fixture
def api():
    with (mock.patch.object(image, '_service_context'),
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
        assert image.delete_unfinished(record) == goes
    assert api.delete.called == goes


def test_what_is_unfinished_of_an_instance():
    with mock.patch.object(image.glance, 'API', autospec=True) as api, \
            mock.patch.object(image, '_service_context'):
        api.return_value.get_all.return_value = [
            {'id': status, 'status': status}
            for status in ('queued', 'saving', 'active', 'importing')]
        assert image.unbegun('server') == ['queued', 'saving']
    assert api.return_value.get_all.call_args.kwargs['filters'] == {
        'instance_uuid': 'server', 'image_type': 'snapshot'}

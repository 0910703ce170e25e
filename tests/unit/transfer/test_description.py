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

from nova_snapdriver.transfer import description

METADATA = {'status': 'active', 'disk_format': 'qcow2', 'properties': {
    'kernel_id': '', 'ramdisk_id': None, 'owner_id': 'p', 'count': 3}}
LABELS = {'snapdriver_path': 'live', 'snapdriver_consistency': 'crash'}


def changes(found, metadata=METADATA):
    return {(change['op'], change['path']): change.get('value')
            for change in description.changes(metadata, found)}


def test_all_is_set_in_an_image_that_has_nothing():
    assert changes({'disk_format': None}) == {
        ('add', '/disk_format'): 'qcow2', ('add', '/owner_id'): 'p',
        ('add', '/count'): '3'}


def test_just_what_differs_is_changed():
    assert changes({'disk_format': 'qcow2', 'owner_id': 'q', 'count': '3',
                    'min_disk': 7}) == {('add', '/owner_id'): 'p'}


def test_labels_of_another_image_are_replaced_or_removed():
    found = {'snapdriver_path': 'mirror', 'snapdriver_captured_at': '2020',
             'os_type': 'linux'}
    assert changes(found, {'properties': LABELS}) == {
        ('add', '/snapdriver_path'): 'live',
        ('add', '/snapdriver_consistency'): 'crash',
        ('remove', '/snapdriver_captured_at'): None}
    assert changes(found, {}) == {
        ('remove', '/snapdriver_path'): None,
        ('remove', '/snapdriver_captured_at'): None}


def test_metadata_without_labels():
    labelled = dict(METADATA, properties={**METADATA['properties'], **LABELS})
    assert description.unlabelled(labelled) == METADATA

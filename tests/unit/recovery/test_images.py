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

import contextlib
import dataclasses
import datetime
from unittest import mock

from glanceclient import exc as glance_exc
from keystoneauth1 import exceptions as ksa_exc
from nova import exception as nova_exception
import pytest

from nova_snapdriver import exception
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
    with (mock.patch.object(images, 'service_context'),
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


def made(name, when):
    return stored(name, created_at=datetime.datetime(
        2026, 11, 1, when, tzinfo=datetime.UTC))


def test_images_that_are_newer_than_the_start_are_no_orphans(api):
    api.get_all.return_value = [made('queued old', 1), made('queued new', 3)]
    before = datetime.datetime(2026, 11, 1, 2, tzinfo=datetime.UTC)
    assert images.unbegun('server', before) == ['queued old']


def not_found(*args):
    raise nova_exception.ImageNotFound(image_id=ENTRY.image)


@pytest.fixture
def record(tmp_path):
    """An entry, whose image was shown at its beginning or not."""
    with contextlib.ExitStack() as records:
        def call(visible):
            return records.enter_context(journal.Journal(
                str(tmp_path), journal_entry.HOST).begin(
                    dataclasses.replace(ENTRY, visible=visible)))
        yield call


@pytest.mark.parametrize('role', (None, 'the role admin'))
def test_image_that_was_shown_and_is_not_found_is_gone(role, api, record):
    api.get.side_effect = not_found
    with mock.patch.object(images, 'missing_role', return_value=role):
        assert not images.delete_unfinished(record(True))
        assert not images.exists(record(True).entry)


def test_image_that_was_never_shown_may_be_there(api, record):
    api.get.side_effect = not_found
    with mock.patch.object(images, 'missing_role', return_value='admin'):
        with pytest.raises(exception.ImageHidden, match='the role admin'):
            images.delete_unfinished(record(False))
        with pytest.raises(exception.ImageHidden):
            images.exists(record(False).entry)


def test_image_that_nobody_finds_with_all_roles_is_gone(api, record):
    api.get.side_effect = not_found
    with mock.patch.object(images, 'missing_role', return_value=None):
        assert not images.delete_unfinished(record(False))
        assert not images.exists(record(False).entry)


def test_keystone_that_is_away_says_nothing_of_roles(api, record):
    api.get.side_effect = not_found
    with (mock.patch.object(images, 'missing_role', side_effect=OSError),
          pytest.raises(OSError)):
        images.exists(record(False).entry)


def test_image_that_goes_just_then_is_gone(api, record):
    api.get.return_value = STORED | {'status': 'queued'}
    api.delete.side_effect = not_found
    assert not images.delete_unfinished(record(True))


@pytest.mark.parametrize('error', (
    nova_exception.ImageNotAuthorized(image_id='i'),
    nova_exception.GlanceConnectionFailed(server='g', reason='away'),
    glance_exc.HTTPServiceUnavailable('503'),
    ksa_exc.ConnectFailure('away')))
def test_image_that_cannot_be_deleted_is_named(error, api, record):
    api.get.return_value = STORED | {'status': 'queued'}
    api.delete.side_effect = error
    with pytest.raises(exception.UploadFailed, match=ENTRY.image):
        images.delete_unfinished(record(True))


def test_plan_that_cannot_be_read_deletes_no_active_image(api, record,
                                                          tmp_path):
    api.get.return_value = STORED
    kept = record(True)
    path, = tmp_path.glob('*.json')
    path.with_suffix('.planned').write_text('[')
    with pytest.raises(exception.UploadFailed):
        images.delete_unfinished(kept)
    api.delete.assert_not_called()


@pytest.mark.parametrize('properties, goes', (
    ({'instance_uuid': 'server'}, True), ({'instance_uuid': 'other'}, False),
    ({}, False)))
def test_image_of_another_server_is_left(properties, goes, api):
    api.get.return_value = {'status': 'queued', 'properties': properties}
    assert images.delete_unbegun('image', 'server') == goes
    assert api.delete.called == goes


def test_image_that_got_its_data_meanwhile_is_left(api):
    api.get.return_value = STORED
    assert not images.delete_unbegun('image', ENTRY.instance)
    api.delete.assert_not_called()


def test_glance_shows_an_image(api):
    assert images.is_visible('image')
    for error in (nova_exception.ImageNotFound(image_id='i'), OSError('away')):
        api.get.side_effect = error
        assert not images.is_visible('image')


@pytest.mark.parametrize('roles, missing', (
    (['admin'], False), (['service', 'admin'], False), (['service'], True),
    ([], True)))
def test_role_that_is_missing(roles, missing):
    auth = mock.Mock()
    auth.get_access.return_value.role_names = roles
    with (mock.patch.object(images.compat, 'service_auth_plugin',
                            return_value=auth),
          mock.patch.object(images.loading,
                            'load_session_from_conf_options')):
        found = images.missing_role()
    assert (found is not None) == missing
    assert not missing or 'the role admin' in found


def test_credentials_that_are_missing():
    with mock.patch.object(images.compat, 'service_auth_plugin',
                           return_value=None):
        assert 'no credentials' in images.missing_role()
        with pytest.raises(exception.UploadFailed, match='no credentials'):
            images.service_context()

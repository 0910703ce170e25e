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

"""The progress that Nova's API shows of a server."""

from unittest import mock

from nova import exception as nova_exception
import pytest

from nova_snapdriver.compute import progress
from nova_snapdriver.compute import running
from nova_snapdriver import database
from nova_snapdriver import journal
from tests.unit import cloud as fake_cloud


@pytest.fixture
def cloud():
    with fake_cloud.Cloud().seen() as made:
        made.database.task_state = 'image_uploading'
        yield made


@pytest.fixture
def snapshot():
    return running.Snapshot(fake_cloud.UUID)


@pytest.fixture
def record():
    return mock.create_autospec(journal.Record, instance=True)


@pytest.fixture(autouse=True)
def host():
    with mock.patch.object(progress, 'CONF', host=fake_cloud.HOST):
        yield


def show(percent):
    database.show_progress(fake_cloud.UUID, fake_cloud.HOST, percent)


def test_it_is_shown_and_cleared(cloud, snapshot, record):
    with progress.cleared(snapshot, record):
        snapshot.note_sent(1, 3)
        progress.show(snapshot)
        assert cloud.database.progress == 33
    assert cloud.database.progress == 0
    assert not record.keep.called


def test_a_failure_clears_it_and_goes_on(cloud, snapshot, record):
    with pytest.raises(ZeroDivisionError):
        with progress.cleared(snapshot, record):
            snapshot.note_sent(2, 2)
            progress.show(snapshot)
            raise ZeroDivisionError
    assert cloud.database.progress == 0


def test_without_the_database_it_is_left_to_a_recovery(cloud, snapshot,
                                                       record):
    with progress.cleared(snapshot, record):
        cloud.database.away = True
    assert record.keep.called


@pytest.mark.parametrize('changes', (
    {'task_state': None}, {'task_state': 'rebuilding'},
    {'task_state': 'resize_prep'}, {'host': fake_cloud.OTHER},
    {'deleted': True}))
def test_that_of_another_task_is_not_touched(changes, cloud):
    vars(cloud.database).update(changes)
    show(50)
    assert cloud.database.progress == 0


@pytest.mark.parametrize('changes', (
    {'task_state': 'migrating'}, {'host': fake_cloud.OTHER}))
def test_nor_is_it_cleared(changes, cloud):
    vars(cloud.database).update(progress=70, **changes)
    show(0)
    assert cloud.database.progress == 70


def test_a_server_without_a_task_is_cleared(cloud):
    vars(cloud.database).update(progress=70, task_state=None)
    show(0)
    assert cloud.database.progress == 0


@pytest.mark.parametrize('error', (
    nova_exception.UnexpectedTaskStateError(
        instance_uuid='server', expected='one', actual='another'),
    nova_exception.InstanceNotFound(instance_id='server')))
def test_a_task_that_begins_meanwhile_wins(error, cloud):
    with mock.patch.object(cloud.database, 'save', side_effect=error):
        show(50)
    assert cloud.database.progress == 0


def test_what_is_shown_already_is_not_saved(cloud):
    cloud.database.progress = 50
    with mock.patch.object(cloud.database, 'save') as save:
        show(50)
    assert not save.called

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

"""What the database says of a server, and that its end can be noted."""

import types
from unittest import mock

from nova import exception as nova_exception
import nova.objects
import oslo_messaging
import pytest

from nova_snapdriver import database
from nova_snapdriver import exception
from tests.unit import cloud as fake_cloud

nova.objects.register_all()
INSTANCE = types.SimpleNamespace(uuid='server')


def away():
    """What the conductor raises without its database."""
    return oslo_messaging.RemoteError('DBConnectionError', 'no route')


@pytest.fixture
def answers():
    """What the database says in turn, and how often it was waited for."""
    with (mock.patch('nova.objects.instance.Instance.get_by_uuid') as asked,
          mock.patch('time.sleep') as slept):
        yield asked, slept


@database.awaited
def snapshot(driver, context, instance, image_id, update_task_state):
    if isinstance(image_id, Exception):
        raise image_id


def take(image_id='image'):
    snapshot(None, None, INSTANCE, image_id, update_task_state=None)


def test_a_database_that_is_there_is_asked_once(answers):
    asked, slept = answers
    take()
    assert asked.call_count == 1
    assert not slept.called


def test_one_that_is_away_is_waited_for(answers):
    asked, slept = answers
    asked.side_effect = [away(), away(), away(), None]
    take()
    assert slept.call_count == 2


def test_a_failure_is_told_only_then(answers):
    asked, slept = answers
    asked.side_effect = [away(), away(), None]
    with pytest.raises(ZeroDivisionError):
        take(ZeroDivisionError())
    assert slept.call_count == 1


@pytest.mark.parametrize('error', (
    nova_exception.InstanceNotFound(instance_id='server'),
    oslo_messaging.RemoteError('InstanceNotFound', 'server'),
    RuntimeError('no database is configured')))
def test_what_does_not_get_better_is_not_waited_for(answers, error):
    asked, slept = answers
    asked.side_effect = error
    take()
    assert not slept.called


def test_a_queue_that_is_away_is_waited_for(answers):
    asked, slept = answers
    asked.side_effect = [oslo_messaging.MessagingTimeout(),
                         oslo_messaging.MessagingTimeout(), None]
    take()
    assert slept.call_count == 1


def test_it_is_not_waited_for_ever(answers):
    asked, slept = answers
    asked.side_effect = away()
    with mock.patch.object(database, '_WAIT_SECONDS', 0):
        take()
    assert slept.call_count <= 1


# Whose the guest is


@pytest.fixture
def server():
    """A cloud's database, of a server that is active on its host."""
    with fake_cloud.Cloud().seen() as cloud:
        yield cloud.database


UUID, HOST = fake_cloud.UUID, fake_cloud.HOST


def test_server_of_its_host(server):
    assert database.why_not_here(UUID, HOST) is None
    assert database.why_not_running(UUID, HOST, paused=False) is None
    assert not database.is_deleted(UUID)


@pytest.mark.parametrize('changes, reason', (
    ({'deleted': True}, 'deleted'), ({'host': 'compute-2'}, 'compute-2'),
    ({'host': None}, 'None')))
def test_server_of_no_concern_here(changes, reason, server):
    vars(server).update(changes)
    assert reason in database.why_not_here(UUID, HOST)
    assert reason in database.why_not_running(UUID, HOST, paused=True)


@pytest.mark.parametrize('status, evacuated', (
    ('accepted', True), ('pre-migrating', True), ('done', True),
    ('completed', False), ('failed', False), ('error', False)))
def test_evacuation(status, evacuated, server):
    server.migrations.append(fake_cloud.Migration(status=status))
    reason = database.why_not_here(UUID, HOST)
    assert (reason is not None) == evacuated
    assert (database.why_not_running(UUID, HOST, paused=False)
            is not None) == evacuated


def test_evacuations_of_deleted_servers_count_too(server):
    """Nova reads deleted migrations as well when it destroys."""
    with mock.patch('nova.objects.MigrationList.get_by_filters',
                    return_value=[]) as listed:
        database.why_not_here(UUID, HOST)
    assert listed.call_args.args[0].read_deleted == 'yes'
    assert listed.call_args.args[1]['instance_uuid'] == UUID


@pytest.mark.parametrize('state', (
    'stopped', 'suspended', 'rescued', 'resized', 'error', 'shelved',
    'shelved_offloaded', 'soft-delete', 'deleted', 'building'))
def test_state_in_which_no_guest_runs(state, server):
    server.vm_state = state
    for paused in (True, False):
        assert database.why_not_running(
            UUID, HOST, paused=paused) == 'the server is ' + state
    assert database.why_not_here(UUID, HOST) is None


def test_guest_of_a_paused_server_is_there_and_does_not_run(server):
    server.vm_state = 'paused'
    assert database.why_not_running(UUID, HOST, paused=True) is None
    assert database.why_not_running(
        UUID, HOST, paused=False) == 'the server is paused'


@pytest.mark.parametrize('state', (
    'powering-off', 'suspending', 'rebooting', 'reboot_started_hard',
    'rebuilding', 'resize_prep', 'migrating', 'shelving', 'rescuing',
    'pausing', 'image_of_the_future'))
def test_task_that_may_change_the_state_is_waited_for(state, server):
    server.task_state = state
    with pytest.raises(exception.ServerBusy, match=state):
        database.why_not_running(UUID, HOST, paused=True)


@pytest.mark.parametrize('state', ('deleting', 'soft-deleting'))
def test_server_that_is_being_deleted(state, server):
    server.task_state = state
    assert 'deleted' in database.why_not_running(UUID, HOST, paused=True)
    assert database.is_deleted(UUID)


@pytest.mark.parametrize('changes, deleted', (
    ({'deleted': True}, True), ({'vm_state': 'soft-delete'}, True),
    ({'vm_state': 'deleted'}, True), ({'vm_state': 'stopped'}, False),
    ({'task_state': 'powering-off'}, False), ({'host': 'other'}, False)))
def test_deletion(changes, deleted, server):
    vars(server).update(changes)
    assert database.is_deleted(UUID) == deleted


def test_database_that_is_away_says_nothing(server):
    server.away = True
    for ask in (database.is_deleted,
                lambda uuid: database.why_not_here(uuid, HOST),
                lambda uuid: database.why_not_running(uuid, HOST, True)):
        with pytest.raises(oslo_messaging.MessagingTimeout):
            ask(UUID)


# Task states


@pytest.mark.parametrize('state, begun', (
    ('image_snapshot', True), ('image_pending_upload', True),
    ('image_uploading', True), ('shelving_image_pending_upload', True),
    ('shelving_image_uploading', True), ('image_snapshot_pending', False),
    ('image_backup', False), ('shelving', False), ('deleting', False),
    (None, False)))
def test_states_that_the_driver_alone_sets(state, begun, server):
    server.task_state = state
    assert [one.uuid for one in database.begun(HOST)] == [UUID] * begun


def test_states_of_another_host_are_its_own(server):
    server.task_state, server.host = 'image_snapshot', 'compute-2'
    assert database.begun(HOST) == []


def test_task_is_cleared(server):
    server.task_state = 'shelving_image_uploading'
    database.clear_task(*database.begun(HOST))
    assert server.task_state is None


def test_another_task_is_not_cleared(server):
    server.task_state = 'shelving_image_uploading'
    found, = database.begun(HOST)
    server.task_state = 'deleting'
    with pytest.raises(nova_exception.UnexpectedTaskStateError):
        database.clear_task(found)
    assert server.task_state == 'deleting'

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

"""A snapshot ends when its end can be noted."""

import types
from unittest import mock

from nova import exception as nova_exception
import nova.objects
import oslo_messaging
import pytest

from nova_snapdriver import database

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

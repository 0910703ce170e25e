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

"""The task states of a snapshot, in Nova's order."""

from unittest import mock

from nova.compute import task_states
from nova import exception as nova_exception
import pytest

from nova_snapdriver.compute import taskstate

PENDING = task_states.IMAGE_PENDING_UPLOAD
UPLOADING = task_states.IMAGE_UPLOADING


@pytest.fixture
def update():
    return mock.Mock()


@pytest.fixture
def state(update):
    return taskstate.TaskState(update)


def test_pending_expects_what_the_api_has_set(state, update):
    state.pending()
    update.assert_called_once_with(task_state=PENDING)


def test_uploading_comes_after_pending(state, update):
    state.uploading()
    update.assert_called_once_with(task_state=UPLOADING,
                                   expected_state=PENDING)


def test_stock_says_pending_again_and_is_not_heard(state, update):
    """Nova would look for the API's state, which is gone."""
    state.pending()
    update.reset_mock()
    state.update(task_state=PENDING)
    update.assert_not_called()


@pytest.mark.parametrize('expected', (
    {'task_state': UPLOADING, 'expected_state': PENDING},
    {'task_state': PENDING, 'expected_state': UPLOADING}))
def test_all_else_that_stock_says_is_passed_on(expected, state, update):
    state.update(**expected)
    update.assert_called_once_with(**expected)


def test_server_that_has_another_task_is_an_error(state, update):
    update.side_effect = nova_exception.UnexpectedDeletingTaskStateError(
        instance_uuid='server', expected=[PENDING], actual=['deleting'])
    with pytest.raises(nova_exception.UnexpectedDeletingTaskStateError):
        state.pending()

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

"""What ends as nova-compute is told to stop."""

import threading
import types
from unittest import mock

import pytest

from nova_snapdriver import compat
from nova_snapdriver.compute import running
from nova_snapdriver.compute import shutdown

SECONDS = 20


@pytest.fixture(autouse=True)
def quick():
    with (mock.patch.object(shutdown, '_POLL_SECONDS', 0.01),
          mock.patch.object(compat, 'shutdown_seconds', return_value=60)):
        yield


@pytest.fixture
def event():
    return threading.Event()


@pytest.fixture
def virtapi(event):
    return types.SimpleNamespace(
        _compute=types.SimpleNamespace(_shutdown_in_progress=event))


@pytest.fixture
def snapshots():
    return mock.create_autospec(running.Running, instance=True)


@pytest.fixture
def watching(virtapi, snapshots):
    made = shutdown.Shutdown(virtapi, snapshots)
    made.watch()
    yield made
    made.end()


def called(method):
    """An event, set by the next call of a mock."""
    found = threading.Event()
    method.side_effect = lambda *args: found.set()
    return found


def test_nothing_ends_before_the_order(watching, snapshots):
    assert not called(snapshots.end_late).wait(0.1)


def test_late_uploads_end_at_the_order(watching, snapshots, event):
    ended = called(snapshots.end_late)
    event.set()
    assert ended.wait(SECONDS)
    seconds, = snapshots.end_late.call_args_list[0].args
    # What Nova waits, without the time to verify and undo.
    assert 50 < seconds <= 55


def test_they_are_looked_at_again_and_again(watching, snapshots, event):
    event.set()
    for _ in range(3):
        assert called(snapshots.end_late).wait(SECONDS)


def test_time_that_is_over_is_no_time(virtapi, snapshots, event):
    with mock.patch.object(compat, 'shutdown_seconds', return_value=0):
        made = shutdown.Shutdown(virtapi, snapshots)
        event.set()
        made.watch()
        assert called(snapshots.end_late).wait(SECONDS)
        made.end()
    assert snapshots.end_late.call_args.args == (0,)


def test_end_ends_all_within_what_is_left(virtapi, snapshots):
    shutdown.Shutdown(virtapi, snapshots).end()
    snapshots.end_all.assert_called_once_with(15)


def test_watch_ends_with_the_driver(virtapi, snapshots, event):
    before = threading.active_count()
    made = shutdown.Shutdown(virtapi, snapshots)
    made.watch()
    made.end()
    for thread in threading.enumerate():
        if getattr(thread, '_target', None) == made._watch:
            thread.join(SECONDS)
            assert not thread.is_alive()
    assert threading.active_count() <= before
    assert not snapshots.end_late.called


@pytest.mark.parametrize('older', (
    None, types.SimpleNamespace(), types.SimpleNamespace(_compute=None),
    types.SimpleNamespace(_compute=types.SimpleNamespace())))
def test_older_novas_are_not_watched(older, snapshots):
    with mock.patch.object(threading, 'Thread') as thread:
        shutdown.Shutdown(older, snapshots).watch()
    thread.assert_not_called()

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

"""What a mirror does with libvirt's events, and without them."""

import collections
from unittest import mock

import pytest

from nova_snapdriver.capture import mirror
from nova_snapdriver.capture import request as capture_request
from nova_snapdriver import exception
from nova_snapdriver import guest as snap_guest

READY = snap_guest.BlockJobEvent.READY
ENDED = snap_guest.BlockJobEvent.ENDED
FAILED = snap_guest.BlockJobEvent.FAILED


@pytest.fixture(autouse=True)
def no_pauses():
    with (mock.patch('time.sleep'), mock.patch.object(
            mirror, '_INFO_SECONDS', 0), mock.patch.object(
                mirror, '_LAST_EVENT_SECONDS', 0)):
        yield


@pytest.fixture
def request_of():
    found = mock.create_autospec(capture_request.Request, instance=True)
    found.guest = mock.create_autospec(snap_guest.Guest, instance=True)
    found.guest.instance = None
    found.guest.block_job.return_value = snap_guest.Copying(1, 2)
    found.disk, found.place = mock.Mock(target='vda'), mock.Mock()
    return found


def test_an_event_tells_that_the_copy_is_ready(request_of):
    mirror._wait_until_ready(request_of, collections.deque([READY]))
    request_of.guest.block_job.assert_not_called()


def test_libvirt_is_asked_without_an_event(request_of):
    request_of.guest.copy_is_ready.side_effect = [False, False, True]
    events = collections.deque()
    mirror._wait_until_ready(request_of, events)
    assert list(events) == [READY]
    assert request_of.guest.block_job.call_count == 3


@pytest.mark.parametrize('event', (ENDED, FAILED))
def test_copy_that_ends_too_early_is_an_error(event, request_of):
    with pytest.raises(exception.CaptureFailed, match=event.value):
        mirror._wait_until_ready(request_of, collections.deque([event]))


def test_copy_without_progress_is_an_error(request_of):
    request_of.guest.copy_is_ready.return_value = False
    with (mock.patch.object(mirror, '_STALL_SECONDS', 0),
          pytest.raises(exception.CaptureFailed, match='no progress')):
        mirror._wait_until_ready(request_of, collections.deque())


def test_the_last_event_tells_how_the_copy_ended():
    mirror._wait_for_the_end('vda', collections.deque([READY, ENDED]))
    with pytest.raises(exception.CaptureFailed, match='failed at its end'):
        mirror._wait_for_the_end('vda', collections.deque([READY, FAILED]))
    with pytest.raises(exception.CaptureFailed, match='does not say'):
        mirror._wait_for_the_end('vda', collections.deque([READY]))

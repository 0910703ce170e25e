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

from nova import objects
import pytest

from nova_snapdriver.compute import events
from nova_snapdriver import exception
from nova_snapdriver import journal
from tests.unit import notes as capture_notes

INSTANCE = mock.Mock(uuid='0b4c7a52-1d3e-4f60-8a9b-5c6d7e8f9012')


@pytest.fixture
def recorded():
    """The calls that record events, at the outer edge."""
    objects.register_all()
    with (mock.patch.object(objects.InstanceActionEvent, 'event_start',
                            autospec=True) as start,
          mock.patch.object(objects.InstanceActionEvent,
                            'event_finish_with_failure',
                            autospec=True) as finish):
        yield start, finish


def test_owner_is_told_that_the_guest_may_be_frozen(recorded):
    start, finish = recorded
    notes = capture_notes.Notes()
    notes.mark(journal.Mark.FROZEN, 'boot 7')
    events.tell_frozen(None, INSTANCE, notes)
    assert events.FROZEN in start.call_args.args
    assert isinstance(finish.call_args.kwargs['exc_val'],
                      exception.ThawFailed)


def test_guest_that_is_thawed_is_no_event(recorded):
    events.tell_frozen(None, INSTANCE, capture_notes.Notes())
    assert not recorded[0].called


def test_conductor_that_is_away_costs_no_snapshot(recorded):
    recorded[0].side_effect = ConnectionError
    notes = capture_notes.Notes()
    notes.mark(journal.Mark.FROZEN, 'boot 7')
    events.tell_frozen(None, INSTANCE, notes)

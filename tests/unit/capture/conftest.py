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

from nova_snapdriver import guest as snap_guest
from tests.unit import notes as capture_notes


@pytest.fixture
def no_pauses():
    with mock.patch('time.sleep'):
        yield


@pytest.fixture
def guest():
    """A guest with an agent that runs, until a test says otherwise."""
    found = mock.create_autospec(snap_guest.Guest, instance=True)
    found.instance, found.name = None, 'instance-1'
    found.agent_refusal.return_value = None
    found.freeze.return_value = found.thaw.return_value = 1
    found.run_id.return_value = 'boot 7'
    return found


@pytest.fixture
def notes():
    return capture_notes.Notes()

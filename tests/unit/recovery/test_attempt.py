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

"""What one attempt of the driver to undo has left to be done."""

from unittest import mock

import pytest

from nova_snapdriver import journal
from nova_snapdriver.recovery import orphans
from nova_snapdriver.recovery import retry
from tests.unit.recovery import compute_host

FROZEN = journal.Mark.FROZEN


@pytest.fixture
def attempt(cloud, entries):
    """One attempt; give what is left, and how often orphans were removed."""
    compute = compute_host.make_driver(cloud, entries, None)

    def call(orphaned=False):
        compute._orphans = mock.create_autospec(orphans.Orphans, instance=True)
        compute._orphans.remove.return_value = orphaned
        return compute._undo_abandoned(), compute._orphans.remove.call_count
    return call


def test_nothing(attempt):
    assert attempt() == (retry.Left.NOTHING, 1)


def test_images_of_requests_that_had_not_begun(attempt):
    assert attempt(orphaned=True) == (retry.Left.SOMETHING, 1)


def test_image_that_cannot_be_deleted(attempt, abandon, cloud):
    abandon()
    cloud.glance.away = True
    assert attempt() == (retry.Left.SOMETHING, 1)
    cloud.glance.away = False
    assert attempt() == (retry.Left.NOTHING, 1)


def test_guest_that_waits_keeps_no_image(attempt, abandon, domain):
    abandon(FROZEN)
    domain.agent = 'disconnected'
    assert attempt() == (retry.Left.GUEST, 1)

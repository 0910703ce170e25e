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

import collections
from unittest import mock

from oslo_utils import units
import pytest

from nova_snapdriver.capture import space
from nova_snapdriver.capture import workspace
from nova_snapdriver import exception

ALL = 1 << 60


@pytest.fixture
def place(tmp_path):
    return workspace.locate(str(tmp_path))


@pytest.fixture(autouse=True)
def hundred_mib_free():
    found = collections.namedtuple('statvfs', 'f_bavail f_frsize')
    with mock.patch('os.statvfs', return_value=found(25600, 4096)):
        yield


def test_no_space_is_told_before_anything_is_done(place):
    with pytest.raises(exception.ScratchExhausted, match='not begun'):
        space.check(place, space.Limits(ALL, 0))


def test_a_reserve_that_is_free_is_enough(place):
    space.check(place, space.Limits(100 * units.Mi, 0))
    with pytest.raises(exception.ScratchExhausted, match='has 100 MiB left'):
        space.check(place, space.Limits(100 * units.Mi + 1, 0))


def test_a_copy_needs_its_own_space_beside_the_reserve(place):
    limits = space.Limits(50 * units.Mi, 0)
    space.require(place, limits, 48 * units.Mi)
    with pytest.raises(exception.ScratchExhausted, match='scratch_reserve'):
        space.require(place, limits, 50 * units.Mi)


def test_a_copy_is_held_to_the_limit(place):
    limits = space.Limits(0, 20 * units.Mi)
    space.require(place, limits, 18 * units.Mi)
    with pytest.raises(exception.ScratchExhausted, match='scratch_limit'):
        space.require(place, limits, 20 * units.Mi)


def test_half_of_what_is_free_beyond_the_reserve_is_spare(place):
    assert space.spare(place, space.Limits(40 * units.Mi, 0)) == 30 * units.Mi
    assert space.spare(place, space.Limits(ALL, 0)) == 0

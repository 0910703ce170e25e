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

"""A selection of what `lab/run faults` tries, on one seed."""

import pytest

from lab.faults import harness
from lab.faults import kills
from lab.faults import outside
from lab.faults import ownership

SEED = 1
# While nothing is frozen yet, while it is, and in the middle of the upload.
POINTS = ('journal.written', 'live.begun', 'upload.middle')


@pytest.fixture(scope='module')
def tried(lab):
    with harness.Harness(lab, 'ours', SEED) as made:
        yield made


@pytest.fixture
def rows(tried):
    """What this test has tried."""
    tried.rows.clear()
    yield tried.rows
    assert tried.rows
    assert not [row for row in tried.rows if not row.ok]


@pytest.mark.parametrize('case', [
    pytest.param(case, id=case.name.replace(' ', '-'))
    for case in outside.listed('ours') if case.quick])
def test_from_outside(tried, rows, case):
    outside.Outside(tried).run([case])


def test_nova_compute_killed_at_three_points(tried, rows):
    kills.Kills(tried).run([kills.Kill('live', point) for point in POINTS])


@pytest.mark.parametrize('story', [
    pytest.param(story, id=story.name.replace(' ', '-'))
    for story in ownership.listed() if story.quick])
def test_what_only_nova_knows(tried, rows, story):
    ownership.Stories(tried).run([story])

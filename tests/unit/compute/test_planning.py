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

"""What a way notes in the journal."""

import pytest

from nova_snapdriver.compute import planning
from nova_snapdriver import journal
from nova_snapdriver import plan
from tests.unit import journal_entry

LIVE = planning.Way(plan.Plan(plan.Path.LIVE, 'of a test'), None, None, 'raw',
                    None)
REFUSED = journal.Planned('direct', ('rbd://f/vms/disk/s',),
                          'rbd://f/images/i/snap')


@pytest.fixture
def record(tmp_path):
    """Of a snapshot whose direct way was refused."""
    entries = journal.Journal(str(tmp_path / 'journal'), journal_entry.HOST)
    with entries.begin(journal_entry.ENTRY) as found:
        found.note_planned(REFUSED)
        yield found


def test_refused_way_that_has_left_nothing_is_forgotten(record):
    assert LIVE.with_leftovers(record) == journal.Planned('live')


def test_what_a_refused_way_has_left_is_noted_again(record):
    record.keep()
    assert LIVE.with_leftovers(record) == journal.Planned(
        'live', REFUSED.snapshots, REFUSED.clone)

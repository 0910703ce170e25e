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

import pytest

from nova_snapdriver import exception
from nova_snapdriver import journal
from nova_snapdriver.recovery import earlier
from tests.unit import journal_entry

UUID = journal_entry.ENTRY.instance
OTHER = 'b7a1f4c2-5a58-4a35-9a1f-0c1d2e3f4a5b'


def test_without_any_entry(entries):
    earlier.refuse(entries, UUID)


@pytest.mark.parametrize('mark', journal.Mark)
def test_guest_that_is_not_as_it_was(mark, abandon, entries):
    abandon(mark)
    with pytest.raises(exception.CaptureFailed, match=mark.name.lower()):
        earlier.refuse(entries, UUID)
    record, = entries.abandoned()       # it is not locked any more
    record.unmark(mark)
    record.close()
    earlier.refuse(entries, UUID)


def test_guest_whose_recovery_is_at_work(entries):
    with entries.begin(journal_entry.ENTRY) as record:
        record.mark(journal.Mark.FROZEN, 'boot 7')
        with pytest.raises(exception.CaptureFailed, match='frozen'):
            earlier.refuse(entries, UUID)


def test_what_is_left_is_an_image_or_of_another_server(abandon, entries):
    abandon()
    earlier.refuse(entries, UUID)
    abandon(journal.Mark.FROZEN, instance=OTHER)
    earlier.refuse(entries, UUID)

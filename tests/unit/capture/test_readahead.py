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

import os

import pytest

from nova_snapdriver.capture import readahead
from nova_snapdriver import exception


@pytest.fixture
def between(tmp_path):
    with readahead.ReadAhead(readahead.Spool(str(tmp_path), -1, 0)) as made:
        yield made


def say(between, pid):
    os.write(between.inherited[0], b'%d\n' % pid)


def start(between, pid):
    between.begin()
    between.begun(pid)


def test_end_is_for_when_all_has_been_read(between):
    start(between, 7)
    between.order()
    between.order()
    assert os.read(between.input, 10) == b'\n'
    assert not between.claim_end()
    say(between, 7)
    assert between.claim_end()
    assert between.claim_end() and between.ended
    with pytest.raises(exception.EndedEarly, match='read_ahead_limit'):
        between.begin()


def test_who_reads_again_is_not_disturbed(between):
    start(between, 7)
    say(between, 7)
    between.begin()
    assert not between.claim_end()
    between.begun(8)
    assert not between.claim_end()
    say(between, 8)
    assert between.claim_end()

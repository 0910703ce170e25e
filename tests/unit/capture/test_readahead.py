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

import tempfile
from unittest import mock

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


@pytest.mark.parametrize('limit, most, expected', (
    (-1, 0, -1), (300, 0, 300), (-1, 1000, 100), (300, 1000, 300),
    (800, 1000, 500)))
def test_limit_of_the_snapshot_counts(limit, most, expected):
    conf = mock.Mock()
    conf.snapdriver.read_ahead_limit = limit
    conf.snapdriver.scratch_limit = most
    conf.snapdriver.scratch_reserve = 7
    assert readahead.spool(conf, '/x') == readahead.Spool(
        '/x', expected << 20, 7 << 20)


def test_file_without_a_name_is_counted(between, tmp_path):
    start(between, os.getpid())
    before = between.allocated()
    with tempfile.TemporaryFile(dir=tmp_path, buffering=0) as file:
        file.write(bytes(1 << 20))
        assert between.allocated() - before >= 1 << 20
    with open(tmp_path / 'named', 'wb', buffering=0) as file:
        file.write(bytes(1 << 20))
        assert between.allocated() == before


def test_process_that_is_gone_has_no_files(between):
    assert between.allocated() == 0
    start(between, 1 << 30)
    assert between.allocated() == 0

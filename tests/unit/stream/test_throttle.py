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

from nova_snapdriver.stream import throttle

RATE = 1000


class Time:
    """A clock, and a source that takes no time."""

    def __init__(self):
        self.now = 50.0
        self.read_at = []

    def sleep(self, seconds):
        self.now += seconds

    def read(self, buffer, offset, done):
        self.read_at.append(round(self.now - 50, 3))

    def wait(self):
        self.now += 1


@pytest.fixture
def time():
    return Time()


@pytest.fixture
def source(time):
    return throttle.Throttled(time, RATE, lambda: time.now, time.sleep)


def read(source, length):
    source.read(memoryview(bytes(length)), 0, print)


def test_reads_are_spread_evenly(source, time):
    for _ in range(4):
        read(source, 500)
    assert time.read_at == [0, 0.5, 1, 1.5]


def test_what_was_not_used_is_not_kept(source, time):
    read(source, 500)
    source.wait()
    source.wait()
    for _ in range(3):
        read(source, 500)
    assert time.read_at == [0, 2, 2.4, 2.9]


class Deep:
    """Ends the oldest read whenever it is waited for."""

    def __init__(self):
        self.reads = []
        self.most = 0

    def read(self, buffer, offset, done):
        self.reads.append((offset, done))
        self.most = max(self.most, len(self.reads))

    def wait(self):
        offset, done = self.reads.pop(0)
        done(offset)                    # instead of an error


@pytest.mark.parametrize('shallow, most', ((True, 4), (False, 16)))
def test_few_reads_are_in_flight_if_they_have_to_be(shallow, most):
    deep, ended = Deep(), []
    source = throttle.Shallow(deep, lambda: shallow)
    for offset in range(16):
        source.read(memoryview(bytes(1)), offset, ended.append)
    assert deep.most == most
    assert len(ended) == 16 - most
    while deep.reads:
        source.wait()
    assert ended == list(range(16))


def test_fewer_reads_once_they_have_to_be():
    deep, shallow = Deep(), []
    source = throttle.Shallow(deep, lambda: bool(shallow))
    for offset in range(10):
        source.read(memoryview(bytes(1)), offset, lambda error: None)
    shallow.append(True)
    for offset in range(10):
        source.read(memoryview(bytes(1)), offset, lambda error: None)
        assert len(deep.reads) == 4

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

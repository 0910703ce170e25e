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

import hashlib
import os
import random
import threading

import hypothesis
from hypothesis import strategies
import pytest

from nova_snapdriver.stream import layout
from nova_snapdriver.stream import nbd
from nova_snapdriver.stream import pipeline

DISK = random.Random(1).randbytes(5 * pipeline.REQUEST_SIZE + 12345)


class FakeSource:
    """A server that answers in an order of its own."""

    def __init__(self, seed=0, error_at=None):
        self._random = random.Random(seed)
        self._error_at = error_at
        self._asked = []
        self.most = 0

    def read(self, buffer, offset, done):
        self._asked.append((buffer, offset, done))
        self.most = max(self.most, len(self._asked))

    def wait(self):
        index = self._random.randrange(len(self._asked))
        buffer, offset, done = self._asked.pop(index)
        if self._error_at is not None and offset >= self._error_at:
            return done(5)
        buffer[:] = DISK[offset:offset + len(buffer)]
        return done(0)


def run(segments, source):
    reading, writing = os.pipe()
    found = bytearray()

    def drain():
        while chunk := os.read(reading, 1 << 20):
            found.extend(chunk)

    drainer = threading.Thread(target=drain)
    drainer.start()
    try:
        with pipeline.Writer(writing, 'sha256') as writer:
            pipeline.Reader(source, writer).run(iter(segments))
    finally:
        os.close(writing)
        drainer.join()
        os.close(reading)
    assert writer.written == len(found)
    assert writer.digest == hashlib.sha256(found).hexdigest()
    return bytes(found)


def expected(segments):
    def content(segment):
        if isinstance(segment, layout.Read):
            return DISK[segment.offset:segment.offset + segment.length]
        if isinstance(segment, layout.Zeros):
            return bytes(segment.length)
        return segment
    return b''.join(map(content, segments))


SEGMENTS = strategies.lists(strategies.one_of(
    strategies.binary(max_size=100),
    strategies.builds(layout.Zeros, strategies.integers(0, 3 << 20)),
    strategies.builds(
        lambda offset, length: layout.Read(
            offset, min(length, len(DISK) - offset)),
        strategies.integers(0, len(DISK) - 1),
        strategies.integers(1, len(DISK)))), max_size=8)


@hypothesis.settings(deadline=None, max_examples=40)
@hypothesis.given(SEGMENTS, strategies.integers(0, 99))
def test_whatever_the_order_of_answers_the_bytes_are_in_order(segments, seed):
    assert run(segments, FakeSource(seed)) == expected(segments)


def test_memory_is_bounded():
    source = FakeSource()
    run([layout.Read(0, len(DISK))] * 10, source)
    assert source.most <= pipeline.BUFFERS


def test_failed_read_is_an_error():
    with pytest.raises(nbd.ExportError, match='Input/output error'):
        run([layout.Read(0, len(DISK))],
            FakeSource(error_at=pipeline.REQUEST_SIZE))


def test_pipe_that_nobody_reads_is_an_error():
    reading, writing = os.pipe()
    os.close(reading)
    with pytest.raises(pipeline.PipeClosed):
        with pipeline.Writer(writing, 'sha256') as writer:
            pipeline.Reader(FakeSource(), writer).run(
                iter([layout.Read(0, len(DISK))]))
    os.close(writing)

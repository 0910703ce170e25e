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
"""The stream against servers that lie: an error, in time, and no image."""

import sys

import hypothesis
from hypothesis import strategies
import pytest

from lab.attacks import liar
from lab.attacks import streamattack
from nova_snapdriver.stream import nbd

PYTHON = sys.executable
PATIENCE = 1.0
# These wait for all the time that a map may take.
SLOW = 'a map without an end'


@pytest.mark.parametrize('name', [name for name in liar.LIES if name != SLOW])
def test_lie_is_no_image(tmp_path, name):
    found = streamattack.attempt(liar.LIES[name], tmp_path, PYTHON,
                                 patience=PATIENCE)
    assert found.problems() == []


def test_map_without_an_end(tmp_path):
    found = streamattack.attempt(liar.LIES[SLOW], tmp_path, PYTHON,
                                 patience=0.5)
    assert found.problems() == []


def test_most_extents_that_fit_an_answer(tmp_path):
    """With time for it: a disk like any other, in bounded memory."""
    size = 8 * liar.MI - 1
    found = streamattack.attempt(
        liar.Lie(size=size, status=lambda request: request.map(
            [(1, 2)] * size)), tmp_path, PYTHON, patience=60)
    assert found.status == 0 and found.length == size
    assert found.peak_bytes < streamattack.LIE_PEAK_BYTES // 2


PIECES = strategies.lists(strategies.tuples(
    strategies.integers(0, 12), strategies.integers(0, 12)), max_size=5)


@hypothesis.given(PIECES)
@hypothesis.example([(0, 4), (4, 8)])
@hypothesis.example([(4, 8), (0, 4)])
@hypothesis.example([(0, 6), (0, 6)])
@hypothesis.example([(0, 12), (5, 0)])
def test_pieces_that_are_the_whole(pieces):
    seen = sorted(byte for begin, size in pieces
                  for byte in range(begin, begin + size))
    if nbd._cover(pieces, 0, 12):
        assert seen == list(range(12))
    elif all(size for _, size in pieces):
        assert seen != list(range(12))


# Chunks of any kind, content, length and flags.
CHUNKS = strategies.lists(strategies.tuples(
    strategies.sampled_from((0, 1, 2, 5, 6, 0x8001, 0x8002, 77)),
    strategies.binary(max_size=64),
    strategies.none() | strategies.integers(0, 0xffffffff),
    strategies.integers(0, 3)), min_size=1, max_size=3)


@hypothesis.settings(max_examples=25, deadline=None)
@hypothesis.given(CHUNKS, strategies.booleans(), strategies.sampled_from(
    (0, 1, 511, 1 << 16, 1 << 40)))
def test_noise_for_answers(tmp_path_factory, chunks, in_map, size):
    """As libnbd passes it on: extents that make sense, or an error."""
    def noise(request):
        return b''.join(request.chunk(*chunk) for chunk in chunks)

    lie = liar.Lie(size=size, status=noise if in_map else liar.whole,
                   read=liar.zeros if in_map else noise)
    path = tmp_path_factory.mktemp('noise') / 'nbd'
    with liar.Server(lie, path):
        try:
            with nbd.Client(str(path), '', 0.3) as export:
                at = 0
                for offset, length in export.data_extents():
                    assert offset >= at and length > 0
                    at = offset + length
                assert at <= size
                read(export, min(size, 512))
        except nbd.ExportError as ex:
            assert str(ex)


def read(export, length):
    """Read the beginning; zeros are all that may come of it."""
    if not length:
        return
    buffer, errors = memoryview(bytearray(b'\xa5' * length)), []
    export.read(buffer, 0, errors.append)
    while not errors:
        export.wait()
    # What it got may be noise, and all of it: never what was there before.
    assert errors[0] or b'\xa5' * 8 not in bytes(buffer)

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

"""What is written into Ceph, and in which pieces. Ceph is a stand-in."""

import threading
import tracemalloc

import pytest

from nova_snapdriver.stream import ceph
from nova_snapdriver.stream import pipeline
from oslo_utils import units

STEP = pipeline.REQUEST_SIZE
PIECE = 2 * units.Mi


class Image:
    """A new image, as bytes by offset."""

    def __init__(self):
        self.pieces = {}
        self.error = None
        self.stuck = None

    def write(self, content, offset):
        if self.stuck:
            self.stuck.wait()
        if self.error:
            raise self.error
        self.pieces[offset] = content

    def read(self, offset, length):
        return self.pieces[offset][:length]


@pytest.fixture
def image():
    return Image()


def put(writer, offset, content):
    for at in range(0, len(content), STEP):
        buffer = memoryview(bytearray(STEP))
        piece = content[at:at + STEP]
        buffer[:len(piece)] = piece
        writer.put(pipeline.Block(buffer[:len(piece)], 1, buffer,
                                  offset + at))


def written(image, ranges, verify=True, seconds=60, said=None):
    writer = ceph.Writer(image, seconds, verify,
                         (said if said is not None else []).append)
    with writer:
        for offset, content in ranges:
            put(writer, offset, content)
        writer.finish()
    return {offset: len(one) for offset, one in image.pieces.items()}


def test_pieces_cross_no_object(image):
    start = PIECE - STEP
    assert written(image, [(start, b'x' * (PIECE + 2 * STEP))]) == {
        start: STEP, PIECE: PIECE, 2 * PIECE: STEP}


def test_last_piece_is_short(image):
    assert written(image, [(0, b'x' * (STEP + 512))]) == {0: STEP + 512}
    assert image.pieces[0] == b'x' * (STEP + 512)


def test_zeros_are_not_written(image):
    content = b'x' * STEP + bytes(2 * STEP) + b'y' * STEP
    assert written(image, [(0, content)]) == {0: STEP, 3 * STEP: STEP}
    assert written(Image(), [(0, bytes(4 * PIECE))]) == {}


def test_ranges_apart_are_pieces_apart(image):
    assert written(image, [(0, b'x' * STEP), (4 * STEP, b'y' * STEP)]) == {
        0: STEP, 4 * STEP: STEP}


def test_progress_is_told_in_order(image):
    said = []
    written(image, [(0, b'x' * (20 * PIECE))], said=said)
    assert said == [PIECE * number for number in range(1, 21)]


def test_all_of_it_is_read_again(image):
    for at in (0, 19):
        def flipped(offset, length, bad=at * PIECE):
            content = image.pieces[offset]
            return content[:-1] + b'z' if offset == bad else content

        image.read = flipped
        with pytest.raises(ceph.Differs, match='between %d' % (at * PIECE)):
            written(image, [(0, b'x' * (20 * PIECE))])


def test_nothing_is_read_without_verify(image):
    image.read = None
    assert written(image, [(0, b'x' * STEP)], verify=False) == {0: STEP}


def test_small_extents_do_not_hold_all_buffers(image):
    """The reader has 16: with each of them in a piece it would not go on."""
    writer = ceph.Writer(image, 60, True, lambda done: None)
    for _ in range(pipeline.BUFFERS):
        writer.free.put(memoryview(bytearray(STEP)))
    with writer:
        for number in range(100):
            buffer = writer.free.get(False)
            buffer[:512] = bytes([number + 1]) * 512
            writer.put(pipeline.Block(buffer[:512], 1, buffer, number * 512))
        writer.finish()
    assert image.pieces == {0: b''.join(
        bytes([number + 1]) * 512 for number in range(100))}


class Forgetful:
    """Takes everything, and keeps nothing."""

    def write(self, content, offset):
        pass


def test_memory_does_not_grow_with_the_disk():
    writer = ceph.Writer(Forgetful(), 60, False, lambda done: None)
    buffer = memoryview(bytearray(b'x' * STEP))
    tracemalloc.start()
    try:
        with writer:
            for offset in range(0, 64 * units.Gi, 32 * units.Mi):
                writer.put(pipeline.Block(buffer, 1, buffer, offset))
            writer.finish()
            now, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert now < units.Mi
    assert most < 16 * units.Mi


def test_refused_write_ends_it(image):
    image.error = ceph.Refused('full')
    with pytest.raises(ceph.Refused, match='full'):
        written(image, [(0, b'x' * (20 * PIECE))])


def test_ceph_that_does_not_answer_is_not_waited_for(image):
    image.stuck = threading.Event()
    try:
        with pytest.raises(ceph.Stalled):
            written(image, [(0, b'x' * STEP)], seconds=0.1)
    finally:
        image.stuck.set()

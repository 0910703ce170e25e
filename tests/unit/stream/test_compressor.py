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

from nova_snapdriver.stream import compressor
from nova_snapdriver.stream import layout
from nova_snapdriver.stream import pipeline
from tests.unit.stream import fake_disk


def test_no_more_threads_than_buffers():
    packing = compressor.Compressor('zlib', 99, lambda *given: None,
                                    lambda: None)
    assert packing._pool._max_workers == pipeline.BUFFERS


def sizes(disk, number, threads):
    """How large the clusters become if it is told at the n-th block."""
    found = []

    def give(block, packed):
        if len(found) == 8 * number:
            packing.harder()
            packing.harder()
        found.extend(map(len, packed))

    with compressor.Compressor('zstd', threads, give,
                               lambda: None) as packing:
        pipeline.Reader(fake_disk.Source(disk), packing).run(
            layout.reads(fake_disk.mapped(disk)))
    return found, packing.harder_from


@pytest.mark.parametrize('threads', (1, 4))
def test_harder_from_a_block_that_cannot_have_been_read(threads):
    disk = fake_disk.Kinds(['text'] * 8 * 40)
    found, block = sizes(disk, 5, threads)
    assert block == 5 + pipeline.BUFFERS
    usual, harder = found[0], found[-1]
    assert found == [usual] * 8 * block + [harder] * 8 * (40 - block)


def test_what_ends_an_image_ends_it():
    def check():
        raise pipeline.PipeClosed('gone')

    disk = fake_disk.Kinds(['text'] * 20)
    with pytest.raises(pipeline.PipeClosed):
        with compressor.Compressor('zlib', 1, lambda *given: None,
                                   check) as packing:
            pipeline.Reader(fake_disk.Source(disk), packing).run(
                layout.reads(fake_disk.mapped(disk)))

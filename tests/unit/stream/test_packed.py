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


import array
import dataclasses
import os
import threading

import pytest

from nova_snapdriver.stream import packed
from nova_snapdriver.stream import pipeline
from nova_snapdriver.stream import qcow2_packed
from nova_snapdriver.stream import sample
from tests.unit.stream import fake_disk

CLUSTER = fake_disk.CLUSTER


def forecast(sizes, room):
    return packed._Forecast(
        sample.Sample(array.array('Q', sizes), 1, 64 * len(sizes)), room)


def test_rest_is_what_was_sampled_behind():
    told = forecast([100] * 50 + [0] * 50, 10 ** 9)
    assert told.rest(0) == 64 * 50 * 100
    assert told.rest(64 * 25) == 64 * 25 * 100
    assert told.rest(64 * 25 + 32) == pytest.approx(64 * 24.5 * 100)
    assert told.rest(64 * 50) == told.rest(64 * 100) == 0


def test_forecast():
    sizes = [30000, 31000] * 500
    found = sample.Sample(array.array('Q', sizes), 1, 64 * len(sizes),
                          harder=0.01)
    room = int(found.expected + found.margin)
    told = packed._Forecast(found, room)
    assert not told.is_tight(0, 0)
    half = found.expected / 2
    assert not told.is_tight(int(half), found.whole // 2)
    assert told.is_tight(int(half + 0.9 * found.margin), found.whole // 2)
    # Where the harder level saves nothing, it may even take more.
    useless = packed._Forecast(dataclasses.replace(found, harder=0.0), room)
    assert not useless.is_tight(int(2 * half), found.whole // 2)
    assert not told.is_hopeless(int(half + 1.1 * found.margin),
                                found.whole // 2)
    assert told.is_hopeless(int(1.2 * half + found.margin), found.whole // 2)


def made(kinds, seen, codec='zstd', room=1.0):
    """Make the image of a disk of which a sample saw something else."""
    disk = fake_disk.Kinds(kinds)
    clusters = fake_disk.mapped(disk)
    settings = sample.Settings(codec, 2)
    found = sample.Sampler(fake_disk.Source(fake_disk.Kinds(seen)), clusters,
                           settings, lambda: None).take()
    image = packed.PackedImage(clusters, settings, qcow2_packed.PackedLayout(
        clusters, codec,
        3 + int(room * (found.expected + found.margin)) // CLUSTER), found)
    return image, written(image, disk)


def written(image, disk):
    reading, writing = os.pipe()
    content = bytearray()

    def drain():
        while chunk := os.read(reading, 1 << 20):
            content.extend(chunk)

    drainer = threading.Thread(target=drain)
    drainer.start()
    try:
        with pipeline.Writer(writing, None) as writer:
            image.write(fake_disk.Source(disk), writer)
    finally:
        os.close(writing)
        drainer.join()
        os.close(reading)
    assert len(content) == image.length
    return bytes(content)


@pytest.mark.parametrize('codec', ('zlib', 'zstd', None))
def test_image_is_as_long_as_predicted(codec):
    kinds = ['half', 'text', 'noise', 'zeros'] * 100
    image, _ = made(kinds, kinds, codec)
    assert image.harder_from is None
    assert 0 <= image.gap <= 400 * 1024 + 3 * CLUSTER
    assert image.about['sampled'] == 400
    assert image.outcome == {'gap': image.gap, 'harder_from': None}


def test_image_that_grows_is_compressed_harder():
    kinds = ['words'] * 800
    image, content = made(kinds, kinds, room=0.99)
    assert image.harder_from is not None
    # Made again from what is known by then, it is the same.
    again = packed.PackedImage(image.clusters, image.settings, image.layout,
                               harder_from=image.harder_from)
    assert written(again, fake_disk.Kinds(kinds)) == content


@pytest.mark.parametrize('kinds', (
    ['zeros'] * 300 + ['noise'] * 300,          # a late turn
    ['half'] * 600))
def test_image_that_outgrows_its_prediction_is_given_up(kinds):
    with pytest.raises(packed.Outgrown) as outgrown:
        made(kinds, ['text'] * 300 + ['half'] * 50 + ['zeros'] * 250)
    clusters = fake_disk.mapped(fake_disk.Kinds(kinds))
    image = packed.PackedImage(
        clusters, sample.Settings('zstd', 2), qcow2_packed.PackedLayout(
            clusters, 'zstd', outgrown.value.place))
    try:
        written(image, fake_disk.Kinds(kinds))
    except packed.Outgrown as again:
        # Then it is sent plain: the place is no help.
        assert again.place > outgrown.value.place

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

"""Compressed images against real qemu-img, and against Glance's check."""

import os
import random
import tempfile
import time

import hypothesis
from hypothesis import strategies
from oslo_utils.imageutils import format_inspector
import pytest

from nova_snapdriver import exception
from nova_snapdriver.transfer import body
from nova_snapdriver.transfer import process
from tests.functional import domains
from tests.functional import images
from tests.functional import nbd_servers

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB
TIB = 1024 * GIB
CLUSTER = 64 * KIB
MAX_RESIDENT = 128 * MIB

CODECS = ('zlib', 'zstd')
HALF = bytes(range(16)) * 16        # four bits of eight
TEXT = b''.join(b'line %d of a file\n' % number for number in range(9000))


def content(kind, length, seed):
    """Bytes that shrink not at all, a bit, a lot, or to nothing."""
    if kind in ('noise', 'half'):
        noise = random.Random(seed).randbytes(length)
        return noise if kind == 'noise' else noise.translate(HALF)
    if kind == 'text':
        start = seed % 997
        return (TEXT * (length // len(TEXT) + 2))[start:start + length]
    return bytes(length)


def make_disk(path, size, parts):
    """A file of parts of (clusters, kind), with holes, then cut to size."""
    with open(path, 'wb') as disk:
        for seed, (clusters, kind) in enumerate(parts):
            if kind == 'hole':
                disk.seek(clusters * CLUSTER, os.SEEK_CUR)
            else:
                disk.write(content(kind, clusters * CLUSTER, seed))
        disk.truncate(size)


def assert_good(image, disk, codec):
    """QEMU reads the disk in it, finds no fault, and Glance would take it."""
    domains.run('qemu-img', 'check', '-f', 'qcow2', image)
    domains.run('qemu-img', 'compare', '-f', 'qcow2', '-F', 'raw', image, disk)
    described = domains.run('qemu-img', 'info', '-f', 'qcow2', image)
    assert 'compression type: %s' % (codec or 'zlib') in described
    found = format_inspector.detect_file_format(str(image))
    assert str(found) == 'qcow2'
    found.safety_check()
    assert found.virtual_size == -(-os.path.getsize(disk) // 512) * 512


def check(size, parts, **compression):
    with tempfile.TemporaryDirectory() as area:
        disk, image = area + '/disk', area + '/image'
        make_disk(disk, size, parts)
        with nbd_servers.qemu_nbd(disk, 'raw') as source:
            images.stream(source, image, 'qcow2', directory=area,
                          **compression)
        assert sorted(os.listdir(area)) == ['disk', 'image']
        assert_good(image, disk, compression.get('codec'))


KINDS = strategies.sampled_from(('noise', 'half', 'text', 'zeros', 'hole'))
PARTS = strategies.lists(
    strategies.tuples(strategies.integers(1, 20), KINDS),
    min_size=1, max_size=12)
SIZES = strategies.builds(
    lambda clusters, more: max(1, clusters * CLUSTER + more),
    strategies.integers(0, 160),
    strategies.sampled_from((0, 1, 511, 512, 1536, 4096, -512)))
MIX = [(20, 'text'), (3, 'noise'), (1, 'text'), (1, 'noise'), (30, 'half'),
       (9, 'zeros'), (9, 'hole'), (40, 'text'), (60, 'half')]


@pytest.mark.parametrize('codec', CODECS)
@hypothesis.settings(max_examples=12, deadline=None)
@hypothesis.given(size=SIZES, parts=PARTS,
                  limit=strategies.sampled_from((0, 50000, MIB, GIB)),
                  threads=strategies.sampled_from((1, 2, 4)))
@hypothesis.example(10 * MIB + 1536, MIX, 0, 1)
@hypothesis.example(10 * MIB + 1536, MIX, GIB, 2)
@hypothesis.example(10 * MIB + 1536, MIX, 300000, 4)
@hypothesis.example(1, [(1, 'text')], 0, 1)
@hypothesis.example(5 * MIB, [(80, 'hole')], GIB, 2)
def test_compressed_image_equals_disk(codec, size, parts, limit, threads):
    check(size, parts, codec=codec, limit=limit, threads=threads)


WOBBLY = """
import random
import zlib

def compress(content, level, wbits):
    packed = zlib.compress(content, level, wbits)
    return packed + bytes(random.randrange(9))
"""


def test_second_pass_that_compresses_otherwise(tmp_path, monkeypatch):
    # As ISA-L does by itself, but once in 20000 clusters.
    (tmp_path / 'isal').mkdir()
    (tmp_path / 'isal' / '__init__.py').touch()
    (tmp_path / 'isal' / 'isal_zlib.py').write_text(WOBBLY)
    monkeypatch.setenv('PYTHONPATH', str(tmp_path))
    check(10 * MIB + 1536, MIX, codec='zlib', limit=300000, threads=2)


@pytest.mark.parametrize('parts', (
    [(160, 'zeros')], [(50, 'zeros'), (1, 'text'), (109, 'noise')], MIX))
def test_zeros_are_left_out(parts):
    with tempfile.TemporaryDirectory() as area:
        disk, image = area + '/disk', area + '/image'
        make_disk(disk, 10 * MIB + 1536, parts)
        # nbdkit's sh-like plug-ins aside, this says of no part that it is
        # zeros: as a block device does.
        with nbd_servers.nbdkit('--filter=noextents', 'file', disk) as source:
            images.stream(source, image, 'qcow2', detect_zeroes=True)
            assert_good(image, disk, None)
            data = sum(count for count, kind in parts
                       if kind not in ('zeros', 'hole'))
            assert os.path.getsize(image) <= (data + 7) * CLUSTER


def incompressible(image):
    """The bytes of an image, less what QEMU would make of it."""
    domains.run('qemu-img', 'convert', '-c', '-f', 'qcow2', '-O', 'qcow2',
                image, image + '-c')
    return os.path.getsize(image) / os.path.getsize(image + '-c')


def test_as_small_as_qemu_makes_it():
    with tempfile.TemporaryDirectory() as area:
        disk, image = area + '/disk', area + '/image'
        make_disk(disk, 32 * MIB, [(500, 'half')])
        with nbd_servers.qemu_nbd(disk, 'raw') as source:
            images.stream(source, image, 'qcow2', codec='zlib')
        assert incompressible(image) < 1.1


def test_more_than_memory_holds_goes_to_a_file(tmp_path):
    """With 32 MiB of it in memory, all else in a file, or not at all."""
    disk, one, two = (str(tmp_path / name) for name in ('disk', 'one', 'two'))
    make_disk(disk, 90 * MIB, [(1440, 'half')])
    with nbd_servers.qemu_nbd(disk, 'raw') as source:
        images.stream(source, one, 'qcow2', codec='zstd', limit=GIB,
                      directory=str(tmp_path))
        images.stream(source, two, 'qcow2', codec='zstd', limit=GIB,
                      directory='/nonexistent')
    assert os.path.getsize(one) > 33 * MIB
    domains.run('cmp', one, two)
    assert_good(one, disk, 'zstd')


def test_memory_for_eight_tebibytes(tmp_path):
    disk, image = tmp_path / 'disk', tmp_path / 'image'
    images.make_disk(disk, 8 * TIB, [
        (0, 3 * CLUSTER, 1), (5 * TIB + 4096, 512, 2),
        (8 * TIB - 512, 512, 3)])
    with nbd_servers.qemu_nbd(disk, 'raw') as source, image.open('wb') as out:
        peak = images.peak_memory(source, out, codec='zstd', limit=GIB)
    print('resident at most: %d KiB' % (peak // KIB))
    assert 0 < peak < MAX_RESIDENT
    assert_good(image, disk, 'zstd')


def test_memory_while_much_is_compressed(tmp_path):
    """Of numbers, more than memory's part of what is kept; many threads."""
    with nbd_servers.nbdkit('pattern', '1G') as source:
        with open(os.devnull, 'wb') as nowhere:
            peak = images.peak_memory(source, nowhere, codec='zstd',
                                      limit=20 * GIB, threads=16,
                                      directory=str(tmp_path))
    print('resident at most: %d KiB' % (peak // KIB))
    assert 0 < peak < MAX_RESIDENT


def test_progress_is_told_and_a_survey_can_be_ended():
    told = []
    with nbd_servers.nbdkit('--filter=rate', 'pattern', '1G',
                            'rate=200M') as source:
        packed = images.request(source, codec='zstd')

        def surveyed(done, whole):
            told.append((done, whole))
            image.cancel()

        with body.ImageBody(packed, surveyed=surveyed) as image:
            started = time.monotonic()
            with pytest.raises(exception.StreamFailed):
                assert image.length
            assert time.monotonic() - started < 5
    assert told
    assert 0 < told[0][0] < told[0][1] == GIB


def test_survey_ends_when_nobody_will_read():
    with nbd_servers.nbdkit('--filter=rate', 'pattern', '1G',
                            'rate=200M') as source:
        running = process.StreamProcess(images.request(source, codec='zlib'))
        os.close(running._data)
        assert running._process.wait(10) == 1
        running._data = os.open(os.devnull, os.O_RDONLY)
        running.close()


def test_reads_that_fail_in_the_survey_are_no_image():
    with nbd_servers.nbdkit('--filter=error', 'pattern', '20M',
                            'error-pread-rate=10%') as source:
        with process.StreamProcess(
                images.request(source, codec='zlib')) as running:
            with pytest.raises(exception.StreamFailed, match='read at'):
                assert running.length


def test_a_disk_that_does_not_hold_still_is_no_image(tmp_path):
    disk = tmp_path / 'disk'
    make_disk(disk, 16 * MIB, [(256, 'half')])
    with nbd_servers.qemu_nbd(disk, 'raw') as source:
        with process.StreamProcess(
                images.request(source, codec='zstd')) as running:
            assert running.length
            make_disk(disk, 16 * MIB, [(256, 'text')])
            with pytest.raises(exception.StreamFailed, match='surveyed'):
                for _ in running.chunks():
                    pass

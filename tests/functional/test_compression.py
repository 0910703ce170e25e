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

import contextlib
import hashlib
import json
import os
import random
import tempfile
import threading
import time

import hypothesis
from hypothesis import strategies
from oslo_utils.imageutils import format_inspector
import pytest

from lab.attacks import liar
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


def check(size, parts, codec, threads):
    """As it is predicted, and with more room than it needs."""
    most = 3 * (sum(clusters for clusters, _ in parts) + 4)
    with tempfile.TemporaryDirectory() as area:
        disk, image = area + '/disk', area + '/image'
        make_disk(disk, size, parts)
        with nbd_servers.qemu_nbd(disk, 'raw') as source:
            layout = images.stream(source, image, 'qcow2', codec=codec,
                                   threads=threads)
            assert_good(image, disk, codec if layout['place'] else None)
            images.stream(source, image, 'qcow2', codec=codec,
                          threads=threads, place=most)
            assert_good(image, disk, codec)
        assert sorted(os.listdir(area)) == ['disk', 'image']


@contextlib.contextmanager
def without_holes(disk):
    """Serve a disk as a block device would: all of it is data."""
    with nbd_servers.nbdkit('--filter=noextents', 'file', disk) as source:
        yield source


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
                  threads=strategies.sampled_from((1, 2, 4)))
@hypothesis.example(10 * MIB + 1536, MIX, 1)
@hypothesis.example(10 * MIB + 1536, MIX, 2)
@hypothesis.example(10 * MIB + 1536, MIX, 4)
@hypothesis.example(1, [(1, 'text')], 1)
@hypothesis.example(5 * MIB, [(80, 'hole')], 2)
def test_compressed_image_equals_disk(codec, size, parts, threads):
    check(size, parts, codec=codec, threads=threads)


@pytest.mark.parametrize('parts', (
    [(160, 'zeros')], [(50, 'zeros'), (1, 'text'), (109, 'noise')], MIX))
def test_zeros_are_left_out(parts):
    """Also those of a preallocated disk of which a little was trimmed."""
    with tempfile.TemporaryDirectory() as area:
        disk, image = area + '/disk', area + '/image'
        make_disk(disk, 10 * MIB + 1536, parts)
        with without_holes(disk) as source:
            images.stream(source, image, 'qcow2')
            assert_good(image, disk, None)
            data = sum(count for count, kind in parts
                       if kind not in ('zeros', 'hole'))
            assert os.path.getsize(image) <= (data + 8) * CLUSTER
        with nbd_servers.qemu_nbd(disk, 'raw') as source:
            images.stream(source, image, 'qcow2')
            assert_good(image, disk, None)


def test_zeros_of_a_disk_that_is_mostly_empty_are_not_looked_for(tmp_path):
    disk, image = str(tmp_path / 'disk'), str(tmp_path / 'image')
    make_disk(disk, 16 * MIB, [(100, 'zeros'), (20, 'text')])
    with nbd_servers.qemu_nbd(disk, 'raw') as source:
        layout = images.stream(source, image, 'qcow2')
    assert (layout['place'], layout['plain']) == (0, '')


DISKS = {
    'text': [(4000, 'text')],
    'half': [(3000, 'half')],
    'noise in text': [(30, 'text'), (30, 'noise')] * 60,
    'alternating': [(1, 'half'), (1, 'noise')] * 1500,
    'alternating, and zeros': [
        (1, 'half'), (1, 'zeros'), (1, 'noise')] * 1000,
    'late noise': [(2500, 'zeros'), (1000, 'noise')],
    'late text': [(1000, 'noise'), (2500, 'text')],
}


@pytest.mark.parametrize('codec', CODECS)
@pytest.mark.parametrize('name', DISKS)
def test_gap_is_small(name, codec, tmp_path):
    disk, image = str(tmp_path / 'disk'), str(tmp_path / 'image')
    parts = DISKS[name]
    size = sum(clusters for clusters, _ in parts) * CLUSTER
    make_disk(disk, size, parts)
    with without_holes(disk) as source:
        try:
            layout = images.stream(source, image, 'qcow2', codec=codec)
        except exception.Outgrown:
            # One in some hundred of these: no level shrinks their data more.
            layout = images.stream(source, image, 'qcow2', codec=codec)
    assert_good(image, disk, codec)
    assert 500 <= layout['sampled'] <= 2000
    check = json.loads(domains.run('qemu-img', 'check', '--output=json', '-f',
                                   'qcow2', image))
    print('%s: %d of %d MiB, margin %.1f%%' % (
        name, layout['length'] // MIB, size // MIB,
        100 * layout['margin'] / layout['length']))
    assert not check.get('leaks') and not check.get('corruptions')
    # All kinds of data here are even; the tables take nine clusters.
    assert layout['margin'] <= 0.09 * layout['length'] + 9 * CLUSTER


def test_disk_that_does_not_shrink_is_sent_plain(tmp_path, caplog):
    disk, image, plain = (str(tmp_path / name)
                          for name in ('disk', 'image', 'plain'))
    make_disk(disk, 64 * MIB, [(1000, 'noise'), (24, 'text')])
    with nbd_servers.qemu_nbd(disk, 'raw') as source:
        images.stream(source, image, 'qcow2', codec='zstd')
        assert 'not compressed: a sample of ' in caplog.text
        images.stream(source, plain, 'qcow2')
    domains.run('cmp', image, plain)


def test_another_hash_of_an_image_that_was_compressed(tmp_path):
    disk = str(tmp_path / 'disk')
    make_disk(disk, 64 * MIB, [(400, 'half'), (100, 'noise'), (500, 'text')])
    for codec in CODECS:
        with nbd_servers.qemu_nbd(disk, 'raw') as source:
            with body.ImageBody(images.request(source, codec=codec)) as image:
                sent = b''.join(map(bytes, image))
                assert image.hash_again('md5') == (
                    hashlib.md5(sent).hexdigest())
                # And again with the same length.
                assert len(b''.join(map(bytes, image))) == len(sent)


def test_image_that_outgrows_its_prediction_is_begun_again(tmp_path):
    disk, path = str(tmp_path / 'disk'), tmp_path / 'image'
    make_disk(disk, 16 * MIB, [(256, 'half')])
    with nbd_servers.qemu_nbd(disk, 'raw') as source:
        request = images.request(source, codec='zstd', place=40)
        with body.ImageBody(request) as image:
            with pytest.raises(exception.Outgrown):
                for _ in image:
                    pass
            image.prepare()
            with pytest.raises(exception.Outgrown):
                for _ in image:
                    pass
            image.prepare()
            with path.open('wb') as out:
                for chunk in image:
                    out.write(chunk)
            assert image.length == path.stat().st_size
    assert_good(path, disk, None)


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


def test_memory_for_eight_tebibytes(tmp_path):
    disk, image = tmp_path / 'disk', tmp_path / 'image'
    images.make_disk(disk, 8 * TIB, [
        (0, 3 * CLUSTER, 1), (5 * TIB + 4096, 512, 2),
        (8 * TIB - 512, 512, 3)])
    with nbd_servers.qemu_nbd(disk, 'raw') as source, image.open('wb') as out:
        peak = images.peak_memory(source, out, codec='zstd')
    print('resident at most: %d KiB' % (peak // KIB))
    assert 0 < peak < MAX_RESIDENT
    assert_good(image, disk, 'zstd')


def test_memory_while_much_is_compressed():
    """Of numbers, with many threads."""
    with nbd_servers.nbdkit('pattern', '1G') as source:
        with open(os.devnull, 'wb') as nowhere:
            peak = images.peak_memory(source, nowhere, codec='zstd',
                                      threads=16)
    print('resident at most: %d KiB' % (peak // KIB))
    assert 0 < peak < MAX_RESIDENT


BYTES = {kind: content(kind, CLUSTER, 1) for kind in ('half', 'noise')}


def reading(kind):
    """Answers all reads with data of a kind."""
    return lambda request: request.data(
        BYTES[kind] * (request.length // CLUSTER))


def test_memory_for_a_million_extents(tmp_path):
    """Of a disk of 200 GiB, with data in every other cluster."""
    lie = liar.Lie(size=200 * GIB, status=liar.alternating(CLUSTER),
                   read=reading('half'))
    path = tmp_path / 'nbd'
    with liar.Server(lie, path):
        running = process.StreamProcess(images.request(
            nbd_servers.export.Export(str(path), ''), codec='zstd',
            place=3 * 1024 * 1024))
        with running:
            status = '/proc/%d/status' % running._process.pid
            next(running.chunks())
            assert running.length > 190 * GIB
            with open(status) as lines:
                peak = max(int(line.split()[1]) * KIB for line in lines
                           if 'VmHWM' in line)
    print('resident at most: %d KiB' % (peak // KIB))
    assert 0 < peak < MAX_RESIDENT


def test_tables_that_do_not_fit_in_memory_are_refused_at_the_start(tmp_path):
    lie = liar.Lie(size=60 * TIB, status=liar.whole, read=reading('half'))
    path = tmp_path / 'nbd'
    with liar.Server(lie, path):
        with process.StreamProcess(images.request(
                nbd_servers.export.Export(str(path), ''),
                codec='zstd')) as running:
            assert 'of memory' in running._laid_out()['plain']
            assert running.length > 60 * TIB


def test_sample_ends_when_nobody_will_read():
    with nbd_servers.nbdkit('--filter=rate', 'pattern', '1G',
                            'rate=2M') as source:
        running = process.StreamProcess(images.request(source, codec='zlib'))
        os.close(running._data)
        assert running._process.wait(20) == 1
        running._data = os.open(os.devnull, os.O_RDONLY)
        running.close()


def test_sample_is_cancelled():
    with nbd_servers.nbdkit('--filter=rate', 'pattern', '1G',
                            'rate=2M') as source:
        with body.ImageBody(images.request(source, codec='zstd')) as image:
            timer = threading.Timer(1, image.cancel)
            timer.start()
            started = time.monotonic()
            with pytest.raises(exception.StreamFailed):
                assert image.length
            assert time.monotonic() - started < 12
            timer.join()


def test_reads_that_fail_in_the_sample_are_no_image():
    with nbd_servers.nbdkit('--filter=error', 'pattern', '20M',
                            'error-pread-rate=10%') as source:
        with process.StreamProcess(
                images.request(source, codec='zlib')) as running:
            with pytest.raises(exception.StreamFailed, match='read at'):
                assert running.length

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
import random
import stat
import zlib

import hypothesis
from hypothesis import strategies
import pytest

from nova_snapdriver.stream import codec
from nova_snapdriver.stream import compressor
from nova_snapdriver.stream import extents
from nova_snapdriver.stream import keep as stream_keep
from nova_snapdriver.stream import pipeline
from nova_snapdriver.stream import survey

CLUSTER = extents.CLUSTER_SIZE
NOISE = random.Random(1).randbytes(CLUSTER)
KINDS = {'noise': NOISE, 'zeros': bytes(CLUSTER), 'text': b'text' * 16384}


class Source:
    """A disk that answers at once, the latest question first."""

    def __init__(self, disk):
        self._disk = disk
        self._asked = []

    def read(self, buffer, offset, done):
        self._asked.append((buffer, offset, done))

    def wait(self):
        buffer, offset, done = self._asked.pop()
        buffer[:] = self._disk[offset:offset + len(buffer)]
        done(0)


def surveyed(disk, codec_name, limit=1 << 30, threads=2):
    clusters = extents.ClusterMap(len(disk))
    clusters.mark(0, len(disk))
    keep = stream_keep.Keep(None, limit)
    told = []
    found = survey.survey(
        Source(disk), clusters, survey.Settings(codec_name, threads), keep,
        lambda: None, lambda done, whole: told.append((done, whole)))
    assert told[-1][0] == told[-1][1] == clusters.clusters * CLUSTER
    return found, keep


@hypothesis.settings(deadline=None, max_examples=20)
@hypothesis.given(
    strategies.lists(strategies.sampled_from(sorted(KINDS)), min_size=1,
                     max_size=40), strategies.integers(0, CLUSTER - 1))
def test_survey_finds_what_is_there(kinds, short):
    disk = b''.join(KINDS[kind] for kind in kinds)
    disk = disk[:len(disk) - short]
    found, keep = surveyed(disk, 'zlib')
    expected = [kind for kind in kinds if kind != 'zeros']
    clusters = [cluster for first, end in found.clusters.runs()
                for cluster in range(first, end)]
    assert clusters == [index for index, kind in enumerate(kinds)
                        if kind != 'zeros']
    # The last one is short, and may be smaller for it.
    for size, kind in list(zip(found.sizes, expected))[:-1]:
        assert (size > 0) == (kind == 'text')
    packed = b''.join(map(bytes, keep.chunks()))
    assert len(packed) == sum(found.sizes) == keep.length
    for cluster, size in zip(clusters, found.sizes):
        if size:
            plain = disk[cluster * CLUSTER:(cluster + 1) * CLUSTER]
            one, packed = packed[:size], packed[size:]
            assert zlib.decompress(one, -12) == plain.ljust(CLUSTER, b'\0')


def test_zeros_alone_are_looked_for():
    found, keep = surveyed(NOISE + bytes(CLUSTER) + b'text' * 99, None)
    assert list(found.sizes) == [0, 0]
    assert list(found.clusters.runs()) == [(0, 1), (2, 3)]
    assert keep.clusters == 0


def test_what_ends_a_survey_ends_it():
    def check():
        raise pipeline.PipeClosed('gone')

    clusters = extents.ClusterMap(CLUSTER)
    clusters.mark(0, CLUSTER)
    with pytest.raises(pipeline.PipeClosed):
        survey.survey(Source(NOISE), clusters, survey.Settings('zlib', 1),
                      stream_keep.Keep(None, 0), check, lambda *told: None)


@pytest.fixture
def little_memory(monkeypatch):
    monkeypatch.setattr(stream_keep, '_IN_MEMORY', 100)
    monkeypatch.setattr(stream_keep, '_CHUNK', 64)


PIECES = [bytes([number]) * (10 + number) for number in range(40)]


@pytest.mark.parametrize('limit', (0, 9, 10, 90, 300, 1 << 20))
def test_keep_has_the_first_clusters_up_to_its_limit(little_memory, tmp_path,
                                                     limit):
    with stream_keep.Keep(str(tmp_path), limit) as keep:
        for piece in PIECES:
            keep.append(piece)
        assert keep.length <= limit
        kept = b''.join(map(bytes, keep.chunks()))
        assert kept == b''.join(PIECES[:keep.clusters])
        if keep.clusters < len(PIECES):
            assert keep.length + len(PIECES[keep.clusters]) > limit
        assert not os.listdir(tmp_path)


def test_keep_is_private(little_memory, tmp_path):
    with stream_keep.Keep(str(tmp_path), 1 << 20) as keep:
        for piece in PIECES:
            keep.append(piece)
        info = os.fstat(keep._file.fileno())
        assert stat.S_IMODE(info.st_mode) == 0o600
        assert info.st_nlink == 0


@pytest.mark.parametrize('directory', (None, '/nonexistent'))
def test_keep_without_a_file_has_what_memory_holds(little_memory, directory):
    with stream_keep.Keep(directory, 1 << 20) as keep:
        for piece in PIECES:
            keep.append(piece)
        assert 100 <= keep.length < 200
        assert b''.join(map(bytes, keep.chunks())) == b''.join(
            PIECES[:keep.clusters])


def test_keep_on_a_full_disk_has_what_was_written(little_memory, tmp_path,
                                                  monkeypatch):
    def write(file, content):
        return real(file, content[:7])

    real = os.write
    with stream_keep.Keep(str(tmp_path), 1 << 20) as keep:
        for number, piece in enumerate(PIECES):
            if number == 20:
                monkeypatch.setattr(os, 'write', write)
            keep.append(piece)
        assert keep.clusters == 20
        assert b''.join(map(bytes, keep.chunks())) == b''.join(PIECES[:20])


def test_no_more_threads_than_buffers():
    packing = compressor.Compressor('zlib', 99, lambda *given: None,
                                    lambda: None)
    assert packing._pool._max_workers == pipeline.BUFFERS


@pytest.mark.parametrize('name, package', (
    ('zlib', None), ('zstd', 'zstandard')))
def test_what_is_missing_is_named(monkeypatch, name, package):
    monkeypatch.setattr(codec.importlib.util, 'find_spec', lambda name: None)
    if package is None:
        assert codec.missing(name) is None
        assert 'isal' in codec.slow(name)
    else:
        assert package in codec.missing(name)


TEXT = b''.join(b'line %d\n' % number for number in range(9999))[:CLUSTER]
NIBBLES = NOISE.translate(bytes(range(16)) * 16)


@pytest.mark.parametrize('cluster', (TEXT, NIBBLES))
@pytest.mark.parametrize('more', (-9, -1, 0, 1, 9))
def test_cluster_that_compresses_otherwise_keeps_its_place(cluster, more):
    packed = codec.zlib_compressor()(memoryview(cluster))
    length = len(packed) + more
    found = codec.fitted('zlib', memoryview(cluster), packed, length)
    assert len(found) == length
    assert zlib.decompressobj(-12).decompress(found) == cluster


def test_cluster_that_does_not_shrink_any_more_keeps_its_place():
    packed = codec.zlib_compressor()(memoryview(NIBBLES))
    found = codec.fitted('zlib', memoryview(NIBBLES), compressor.PLAIN,
                         len(packed))
    assert len(found) == len(packed)
    assert zlib.decompressobj(-12).decompress(found) == NIBBLES


@pytest.mark.parametrize('name, cluster, length', (
    ('zlib', TEXT, 9000), ('zlib', NIBBLES, 20000), ('zlib', NOISE, 60000),
    ('zstd', TEXT, None)))
def test_other_cluster_has_no_place(name, cluster, length):
    packed = codec.COMPRESSORS[name]()(memoryview(cluster))
    if len(packed) > compressor.MAX_PACKED:
        packed = compressor.PLAIN
    assert codec.fitted(name, memoryview(cluster), packed,
                        length or len(packed) + 1) is None

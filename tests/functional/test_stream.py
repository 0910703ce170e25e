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

"""The stream against real NBD servers, its images against real qemu-img."""

import doctest
import os
import signal
import sys
import tempfile
import time

import hypothesis
from hypothesis import strategies
import pytest

from lab.attacks import liar
import nova_snapdriver
from nova_snapdriver import exception
from nova_snapdriver.stream import formats
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
ENDED_SECONDS = 15

FORMATS = sorted(formats.FORMATS)


# Ends and beginnings near the edges of sectors, clusters and requests.
EDGES = strategies.sampled_from(
    [512, 4 * KIB, CLUSTER, 512 * KIB, MIB, 4 * MIB])
NEAR = strategies.builds(
    lambda edge, times, off: max(0, edge * times + off * 512),
    EDGES, strategies.integers(0, 9), strategies.integers(-2, 2))
SIZES = NEAR.map(lambda size: max(512, size))
WRITES = strategies.lists(
    strategies.tuples(NEAR, strategies.integers(1, 300 * KIB),
                      strategies.integers(0, 255)), max_size=12)


@pytest.mark.quick
@pytest.mark.parametrize('image_format', FORMATS)
@hypothesis.settings(max_examples=30, deadline=None)
@hypothesis.given(size=SIZES, writes=WRITES)
@hypothesis.example(size=10 * MIB + 1536, writes=[(10 * MIB, 1536, 7)])
@hypothesis.example(size=512, writes=[])
@hypothesis.example(size=CLUSTER, writes=[(0, CLUSTER, 1)])
def test_image_equals_disk(image_format, size, writes):
    with tempfile.TemporaryDirectory() as area:
        disk, image = area + '/disk', area + '/image'
        images.make_disk(disk, size, writes)
        with nbd_servers.qemu_nbd(disk, 'raw') as source:
            images.stream(source, image, image_format)
        images.assert_same(image, image_format, disk, 'raw')


@pytest.mark.parametrize('image_format', FORMATS)
@hypothesis.settings(max_examples=15, deadline=None)
@hypothesis.given(commands=strategies.lists(strategies.sampled_from((
    'write -P 3 0 64k', 'write -P 4 192k 200k', 'write -z 64k 64k',
    'write -z -u 256k 1M', 'discard 0 128k', 'write -P 5 5M 512',
    'write -P 6 6290944 512', 'discard 4M 1M', 'write -P 7 1M 3M')),
    max_size=6))
def test_image_equals_qcow2_disk_on_a_backing_file(image_format, commands):
    with tempfile.TemporaryDirectory() as area:
        base, disk, image = (area + name for name in
                             ('/base', '/disk', '/image'))
        images.make_disk(base, 6 * MIB, [(0, MIB, 9), (5 * MIB, MIB, 8)])
        domains.run('qemu-img', 'create', '-f', 'qcow2', '-F', 'raw', '-b',
                    base, disk, 6 * MIB)
        for command in commands:
            domains.run('qemu-io', '-f', 'qcow2', '-c', command, disk)
        with nbd_servers.qemu_nbd(disk, 'qcow2') as source:
            images.stream(source, image, image_format)
        images.assert_same(image, image_format, disk, 'qcow2')


def test_a_gibibyte_of_alternating_holes(tmp_path):
    disk, image = tmp_path / 'disk', tmp_path / 'image'
    data = b'\xa5' * 4 * KIB
    with disk.open('wb') as out:
        out.truncate(GIB)
        for offset in range(0, GIB, 8 * KIB):
            os.pwrite(out.fileno(), data, offset)
    with nbd_servers.qemu_nbd(disk, 'raw') as source:
        images.stream(source, image, 'qcow2')
    images.assert_same(image, 'qcow2', disk, 'raw')


@pytest.mark.quick
def test_eight_tebibytes_of_nothing_but_a_little(tmp_path):
    disk, image = tmp_path / 'disk', tmp_path / 'image'
    images.make_disk(disk, 8 * TIB, [
        (0, 3 * CLUSTER, 1), (5 * TIB + 4096, 512, 2),
        (8 * TIB - 512, 512, 3)])
    with nbd_servers.qemu_nbd(disk, 'raw') as source, image.open('wb') as out:
        peak = images.peak_memory(source, out)
    print('resident at most: %d KiB' % (peak // KIB))
    assert 0 < peak < MAX_RESIDENT
    domains.run('qemu-img', 'check', '-f', 'qcow2', image)
    domains.run('qemu-img', 'compare', '-f', 'qcow2', '-F', 'raw', image, disk)


@pytest.mark.quick
def test_memory_while_much_is_streamed():
    with nbd_servers.nbdkit('pattern', '2G') as source:
        with open(os.devnull, 'wb') as nowhere:
            peak = images.peak_memory(source, nowhere)
    print('resident at most: %d KiB' % (peak // KIB))
    assert 0 < peak < MAX_RESIDENT


def test_an_iteration_is_always_the_whole_image(tmp_path):
    disk = tmp_path / 'disk'
    images.make_disk(disk, 4 * MIB, [(0, 3 * MIB, 1)])
    with nbd_servers.qemu_nbd(disk, 'raw') as source:
        with body.ImageBody(images.request(source, 'raw')) as image:
            assert len(image) == 4 * MIB
            broken_off = iter(image)
            next(broken_off)
            first = b''.join(map(bytes, image))
            second = b''.join(map(bytes, image))
    assert first == second == disk.read_bytes()


@pytest.mark.quick
@pytest.mark.parametrize('image_format', FORMATS)
@pytest.mark.parametrize('least, most', (
    ('1', '64K'), ('4K', '64K'), ('64K', '64K'), ('512', '192K'),
    ('64K', '1M'), ('1', '32M')))
def test_block_sizes_that_a_server_advertises_are_kept(
        tmp_path, image_format, least, most):
    disk, image = tmp_path / 'disk', tmp_path / 'image'
    images.make_disk(disk, 8 * MIB, [(0, 5 * MIB, 1),
                                     (7 * MIB + 512, 4 * KIB, 2)])
    with nbd_servers.nbdkit(
            '--filter=blocksize-policy', 'file', disk,
            'blocksize-error-policy=error', 'blocksize-minimum=' + least,
            'blocksize-preferred=64K',
            'blocksize-maximum=' + most) as source:
        images.stream(source, image, image_format)
    images.assert_same(image, image_format, disk, 'raw')


def test_part_of_a_read_that_fails_is_no_image():
    with nbd_servers.nbdkit(
            '--filter=blocksize-policy', '--filter=error', 'pattern', '20M',
            'error-pread-rate=2%', 'blocksize-error-policy=error',
            'blocksize-maximum=64K') as source:
        running = process.StreamProcess(images.request(source, 'raw'))
        with pytest.raises(exception.StreamFailed, match='read at'):
            consume(running)


def test_disk_that_is_no_multiple_of_its_blocks_is_an_error(tmp_path):
    disk = tmp_path / 'disk'
    images.make_disk(disk, MIB + 512, [(0, MIB, 1)])
    with nbd_servers.nbdkit('--filter=blocksize-policy', 'file', disk,
                            'blocksize-minimum=4K') as source:
        with pytest.raises(exception.StreamFailed, match='unaligned'):
            consume(process.StreamProcess(images.request(source, 'raw')))


def consume(running):
    with running:
        for _ in running.chunks():
            pass


@pytest.mark.quick
def test_reads_that_fail_are_no_image():
    with nbd_servers.nbdkit('--filter=error', 'pattern', '20M',
                            'error-pread-rate=10%') as source:
        running = process.StreamProcess(images.request(source, 'raw'))
        with pytest.raises(exception.StreamFailed, match='read at'):
            consume(running)


def test_server_that_dies_is_no_image():
    with nbd_servers.nbdkit('pattern', '1G') as source:
        running = process.StreamProcess(images.request(source, 'raw'))
        chunks = running.chunks()
        next(chunks)
        source.process.kill()
        with running, pytest.raises(exception.StreamFailed):
            for _ in chunks:
                pass


@pytest.mark.quick
@pytest.mark.parametrize('number', (9, 15, 11))
def test_process_that_dies_is_no_image(number):
    with nbd_servers.nbdkit('pattern', '1G') as source:
        running = process.StreamProcess(images.request(source, 'raw'))
        chunks = running.chunks()
        next(chunks)
        running._process.send_signal(number)
        with running, pytest.raises(exception.StreamFailed):
            for _ in chunks:
                pass


@pytest.mark.parametrize('answer', (
    b'', b'NBDMAGIC', b'HTTP/1.1 200 OK\r\n\r\n', bytes(4096),
    b'NBDMAGICIHAVEOPT\x00\x03' + b'\xff' * 200))
def test_garbage_for_a_server_is_an_error(answer):
    with nbd_servers.garbage(answer) as source:
        with pytest.raises(exception.StreamFailed):
            consume(process.StreamProcess(images.request(source)))


def test_writable_export_is_refused(tmp_path):
    disk = tmp_path / 'disk'
    images.make_disk(disk, MIB, [])
    with nbd_servers._server(lambda sock: [
            'qemu-nbd', '--format', 'raw', '--persistent', '--socket', sock,
            str(disk)]) as source:
        with pytest.raises(exception.StreamFailed, match='writable'):
            consume(process.StreamProcess(images.request(source)))


def test_no_server_is_an_error(tmp_path):
    source = nbd_servers.export.Export(str(tmp_path / 'nothing'), '')
    with pytest.raises(exception.StreamFailed, match='nothing'):
        consume(process.StreamProcess(images.request(source)))


def test_process_ends_when_nobody_reads():
    with nbd_servers.nbdkit('pattern', '1G') as source:
        running = process.StreamProcess(images.request(source, 'raw'))
        assert running.length
        os.close(running._data)
        assert running._process.wait(10) == 1
        running._data = os.open(os.devnull, os.O_RDONLY)
        running.close()


@pytest.mark.quick
@pytest.mark.parametrize('lie', (
    liar.Lie(greeting=liar.SILENT), liar.Lie(status=lambda _: liar.SILENT)))
def test_process_ends_when_nova_compute_dies(tmp_path, lie):
    """While it connects, and while it maps: nothing is written yet."""
    with liar.Server(lie, tmp_path / 'nbd') as server:
        source = nbd_servers.export.Export(str(server.path), '')
        running = process.StreamProcess(images.request(source, 'raw'))
        time.sleep(2)                   # until it waits for the server
        assert running._process.poll() is None
        for pipe in (running._data, running._status):
            null = os.open(os.devnull, os.O_RDONLY)
            os.dup2(null, pipe, inheritable=False)
            os.close(null)
        assert running._process.wait(ENDED_SECONDS) == 1
        running.close()


@pytest.mark.quick
def test_process_that_is_stopped_is_no_image(monkeypatch):
    monkeypatch.setattr(process, '_SILENT_SECONDS', 1)
    with nbd_servers.nbdkit('pattern', '1G') as source:
        running = process.StreamProcess(images.request(source, 'raw'))
        chunks = running.chunks()
        next(chunks)
        running._process.send_signal(signal.SIGSTOP)
        with running, pytest.raises(exception.StreamFailed,
                                    match='no sign of life'):
            for _ in chunks:
                pass


# Runs the stream process, one of whose threads runs out of memory.
OUT_OF_MEMORY = """
import sys
from nova_snapdriver.stream import __main__ as stream
from nova_snapdriver.stream import pipeline, readahead
def fail(*args):
    raise MemoryError('no room')
%s = fail
sys.exit(stream.main(sys.argv[1:]))
"""


@pytest.mark.quick
@pytest.mark.parametrize('place', ('pipeline.Writer._write_all',
                                   'pipeline.Writer._run'))
def test_thread_that_runs_out_of_memory_is_no_image(place, monkeypatch):
    monkeypatch.setattr(process.Request, 'command', lambda request: [
        sys.executable, '-P', '-c', OUT_OF_MEMORY % place,
        '--socket', request.source.socket, '--format', 'raw'])
    with nbd_servers.nbdkit('pattern', '1G') as source:
        began = time.monotonic()
        with pytest.raises(exception.StreamFailed, match='no room'):
            consume(process.StreamProcess(images.request(source, 'raw')))
        assert time.monotonic() - began < ENDED_SECONDS


def test_close_ends_a_process_in_the_middle():
    with nbd_servers.nbdkit('pattern', '1G') as source:
        with process.StreamProcess(images.request(source, 'raw')) as running:
            next(running.chunks())
        assert running._process.returncode is not None
        running.close()


def test_example_of_the_package(tmp_path):
    disk, image = tmp_path / 'disk', tmp_path / 'image'
    images.make_disk(disk, 4 * MIB, [(MIB, MIB, 1)])
    found = doctest.testmod(nova_snapdriver, extraglobs={
        'path': str(disk), 'target': str(image),
        'scratch_directory': str(tmp_path / 'scratch')})
    assert found.attempted and not found.failed
    images.assert_same(image, 'qcow2', disk, 'raw')
    assert not os.listdir(tmp_path / 'scratch')

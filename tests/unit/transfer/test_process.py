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

import dataclasses
import os
import pathlib
import signal
import subprocess
import sys
import types
from unittest import mock
import venv

import pytest

from nova_snapdriver.capture import export
from nova_snapdriver.capture import readahead
from nova_snapdriver import child
from nova_snapdriver import exception
from nova_snapdriver.stream import arguments
from nova_snapdriver.transfer import process

PLAIN = process.Request(export.Export('/nbd', 'vda'), 'raw', None)


def parsed(request, *before):
    """What the process is told, behind these words."""
    words = request.command()
    module = words.index('nova_snapdriver.stream')
    assert tuple(words[:module - 3]) == before
    assert words[module - 2:module] == ['-P', '-m']
    return arguments.parse(words[module + 1:])


def test_plain_request():
    assert parsed(PLAIN) == arguments.Arguments(
        socket='/nbd', export='vda', format='raw', hash='none')


def test_request_with_all_there_is(tmp_path):
    with readahead.ReadAhead(readahead.Spool('/spool', 7, 8)) as ahead:
        request = process.Request(
            export.Export('/nbd', 'vda', ahead), 'qcow2', 'sha256',
            process.Compression('zstd', 3, 4, 5),
            process.ProcessLimits(bandwidth=5, nice=6))
        assert parsed(request, 'nice', '-n', '6') == arguments.Arguments(
            socket='/nbd', export='vda', format='qcow2', hash='sha256',
            compression='zstd', threads=3, place=4, harder_from=5, bandwidth=5,
            spool='/spool', spool_limit=7, spool_reserve=8,
            captured=ahead.inherited[0])


def test_request_of_an_image_in_ceph():
    request = dataclasses.replace(
        PLAIN, algorithm=None, target=process.Target(
            'fsid', 'images', 'uuid', 'glance', '/ceph.conf', 300, True))
    assert parsed(request) == arguments.Arguments(
        socket='/nbd', export='vda', format='raw', hash='none',
        rbd_pool='images', rbd_image='uuid', rbd_user='glance',
        rbd_conf='/ceph.conf', rbd_stall_timeout=300, rbd_verify=True)


SAYS = """
import sys
for line in sys.argv[1:]:
    print(line, file=sys.stderr)
"""


def said(*lines):
    """A process that says this and gives an image of four bytes."""
    request = dataclasses.replace(PLAIN, compression=process.Compression(
        'zstd', 3))
    running = subprocess.Popen
    code = SAYS + "print('abcd', end='')"

    def popen(words, **options):
        return running([sys.executable, '-c', code, *lines], **options)

    with mock.patch.object(subprocess, 'Popen', popen):
        return process.StreamProcess(request)


def test_what_makes_the_same_image_again():
    with said('{"event": "layout", "length": 4, "place": 70}',
              '{"event": "done", "length": 4, "digest": "",'
              ' "harder_from": 9}') as running:
        assert running.again.compression == process.Compression(
            'zstd', 3, 70)
        assert b''.join(map(bytes, running.chunks())) == b'abcd'
        assert running.again.compression == process.Compression(
            'zstd', 3, 70, 9)


def test_outgrown_image_says_what_it_needs():
    with said('{"event": "layout", "length": 9, "place": 70}',
              '{"event": "outgrown", "message": "x", "place": 80}') as running:
        with pytest.raises(exception.Outgrown) as outgrown:
            list(running.chunks())
    assert outgrown.value.place == 80


def test_image_that_does_not_shrink_is_told(caplog):
    with said('{"event": "layout", "length": 4, "place": 0,'
              ' "plain": "it is noise"}') as running:
        assert running.length == 4
        assert running.again.compression.place == 0
    assert 'it is noise' in caplog.text


class Ahead:
    """Of which a step fails, as if nova-compute were out of descriptors."""

    input, inherited = subprocess.DEVNULL, ()

    def __init__(self):
        self.pid = None

    def begin(self):
        """Nothing to do."""

    def begun(self, pid):
        self.pid = pid
        raise OSError('not now')


def fake_request(ahead=None, program=sys.executable):
    return types.SimpleNamespace(
        source=types.SimpleNamespace(ahead=ahead), target=None,
        command=lambda: [program, '-c', 'input()'])


def descriptors():
    return sorted(os.listdir('/proc/self/fd'))


def test_program_that_is_not_there_leaves_nothing_open():
    before = descriptors()
    with pytest.raises(exception.StreamFailed, match='cannot start'):
        process.StreamProcess(fake_request(program='/nonexistent'))
    assert descriptors() == before


def test_second_pipe_that_cannot_be_made_leaves_nothing_open(monkeypatch):
    before, real, made = descriptors(), os.pipe, []

    def pipe():
        if made:
            raise OSError('too many open files')
        made.append(real())
        return made[0]

    monkeypatch.setattr(os, 'pipe', pipe)
    with pytest.raises(OSError, match='too many'):
        process.StreamProcess(fake_request())
    monkeypatch.undo()
    assert made and descriptors() == before


def test_process_is_ended_if_nobody_gets_it():
    before, ahead = descriptors(), Ahead()
    with pytest.raises(OSError, match='not now'):
        process.StreamProcess(fake_request(ahead))
    assert descriptors() == before
    with pytest.raises(ProcessLookupError):
        os.kill(ahead.pid, 0)


def test_close_twice_leaves_nothing_open():
    before = descriptors()
    running = process.StreamProcess(fake_request())
    assert descriptors() != before
    running.close()
    running.close()
    assert descriptors() == before


# Each is a program in place of the stream process.
LAID_OUT = """
import json, os, sys, threading, time
def say(event, **values):
    os.write(2, json.dumps({'event': event, **values}).encode() + b'\\n')
say('layout', length=4096)
"""
QUICK_SECONDS = 0.5


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(process, '_SILENT_SECONDS', QUICK_SECONDS)
    monkeypatch.setattr(child, '_TERMINATE_SECONDS', QUICK_SECONDS)


def program(code):
    return types.SimpleNamespace(
        source=types.SimpleNamespace(ahead=None), target=None,
        command=lambda: [sys.executable, '-c', LAID_OUT + code])


def streamed(code):
    with process.StreamProcess(program(code)) as running:
        return b''.join(map(bytes, running.chunks()))


WHOLE = """
os.write(1, bytes(4096))
say('done', length=4096, digest='')
"""


def test_whole_image():
    assert streamed(WHOLE) == bytes(4096)


def test_much_is_said_meanwhile():
    """More than a pipe holds, in lines that are no events too."""
    assert streamed("""
for number in range(20000):
    os.write(2, b'noise %d\\n' % number)
    say('alive')
""" + WHOLE) == bytes(4096)


@pytest.mark.parametrize('code', (
    'os.kill(os.getpid(), 19)',
    'os.write(1, bytes(100)); os.kill(os.getpid(), 19)',
    'os.close(2); time.sleep(60)',
    'os.close(1); time.sleep(60)'))
def test_process_that_says_nothing_is_given_up(quick, code):
    with pytest.raises(exception.StreamFailed, match='no sign of life'):
        streamed(code)


def test_process_that_stops_before_it_has_laid_out(quick):
    request = fake_request()
    with process.StreamProcess(request) as running:
        os.kill(running._process.pid, signal.SIGSTOP)
        with pytest.raises(exception.StreamFailed, match='no sign of life'):
            assert running.length


def test_process_that_lives_is_waited_for():
    """Longer than one that says nothing; a busy machine starts it late."""
    with mock.patch.object(process, '_SILENT_SECONDS', 4):
        assert streamed("""
for _ in range(10):
    time.sleep(0.5)
    say('alive')
""" + WHOLE) == bytes(4096)


def test_too_many_bytes_are_an_error():
    with pytest.raises(exception.StreamFailed, match='more than the 4096'):
        streamed("""
while True:
    os.write(1, bytes(4096))
""")


@pytest.mark.parametrize('code', (
    "os.write(1, bytes(100)); say('done', length=4096, digest='')",
    "os.write(1, bytes(100)); say('done', length=100, digest='')"))
def test_too_few_bytes_are_an_error(code):
    with pytest.raises(exception.StreamFailed, match='100 of 4096 bytes'):
        streamed(code)


def test_process_that_is_done_and_does_not_end(monkeypatch):
    # Python may take some seconds to start.
    monkeypatch.setattr(process, '_SILENT_SECONDS', 5)
    monkeypatch.setattr(child, '_TERMINATE_SECONDS', 1)
    with pytest.raises(exception.StreamFailed, match='does not end'):
        streamed(WHOLE + 'os.close(1); os.close(2); time.sleep(60)')


def test_what_a_process_says_last_is_the_reason():
    with pytest.raises(exception.StreamFailed, match='it broke'):
        streamed("say('alive'); say('error', message='it broke'); "
                 "sys.exit(1)")


def test_process_that_cannot_be_killed_is_left(monkeypatch, caplog):
    """In an uninterruptible sleep: its disk is gone."""
    monkeypatch.setattr(child, '_TERMINATE_SECONDS', 0.1)
    stuck = mock.create_autospec(subprocess.Popen, instance=True)
    stuck.pid = 7
    stuck.wait.side_effect = subprocess.TimeoutExpired('nbd', 1)
    child.end(stuck)
    assert 'does not end' in caplog.text
    stuck.kill.assert_called_once_with()


# Starts the stream process as nova-compute does: for its usage.
USAGE = """
import subprocess, sys
from nova_snapdriver.transfer import process
sys.exit(subprocess.call(
    [sys.executable, '-P', '-m', 'nova_snapdriver.stream', '--help'],
    env=process._environment()))
"""


def test_backport_among_the_packages_does_no_harm(tmp_path):
    """What is installed comes after Python's own library."""
    venv.create(tmp_path / 'venv', symlinks=True)
    python = tmp_path / 'venv' / 'bin' / 'python'
    packages, = (tmp_path / 'venv').glob('lib/python*/site-packages')
    source = pathlib.Path(process.__file__).parents[1]
    (packages / 'nova_snapdriver').symlink_to(source)
    for name in ('typing', 'dataclasses'):
        (packages / (name + '.py')).write_text('raise SystemExit("stray")')
    # All else is where it is for this test.
    (packages / 'others.pth').write_text('\n'.join(
        path for path in sys.path
        if path.endswith('-packages') and path != str(packages)))
    done = subprocess.run([python, '-P', '-c', USAGE], capture_output=True,
                          text=True, env={'PATH': os.environ['PATH']})
    assert 'usage: python -m nova_snapdriver.stream' in done.stdout, done
    assert done.returncode == 0


def test_packages_of_a_checkout_are_found(monkeypatch):
    monkeypatch.setenv('PYTHONPATH', '/theirs')
    monkeypatch.setattr(process, '_PACKAGES', '/checkout')
    assert process._environment()['PYTHONPATH'] == '/checkout:/theirs'

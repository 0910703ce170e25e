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

"""NBD servers to read from: QEMU's and nbdkit."""

import contextlib
import pathlib
import socket
import subprocess
import sys
import tempfile
import time

from nova_snapdriver.capture import export

_START_SECONDS = 20


@contextlib.contextmanager
def qemu_nbd(path, disk_format):
    """Export an image file read-only, as the cold path would."""
    with _server(lambda sock: [
            'qemu-nbd', '--read-only', '--format', disk_format, '--persistent',
            '--shared', '8', '--socket', sock, str(path)]) as served:
        yield served


@contextlib.contextmanager
def nbdkit(*arguments):
    """Export what a plugin of nbdkit makes, read-only."""
    with _server(lambda sock: ['nbdkit', '--foreground', '--readonly',
                               '--unix', sock, *arguments]) as served:
        yield served


@contextlib.contextmanager
def garbage(answer):
    """Listen, send the same bytes to every client, and hang up."""
    with _directory() as directory:
        path = directory + '/nbd'
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(path)
            listening.listen()
            code = ('import socket, sys\n'
                    's = socket.socket(fileno=0)\n'
                    'while True:\n'
                    '    c, _ = s.accept()\n'
                    '    c.sendall(%r)\n'
                    '    c.close()\n' % answer)
            process = subprocess.Popen([sys.executable, '-c', code],
                                       stdin=listening)
            with _ended(process):
                yield export.Export(path, '')


def _directory():
    """One whose path leaves room for a socket's, whatever TMPDIR is."""
    return tempfile.TemporaryDirectory(dir='/tmp')


@contextlib.contextmanager
def _server(command):
    with _directory() as directory:
        sock = pathlib.Path(directory, 'nbd')
        process = subprocess.Popen(command(str(sock)))
        with _ended(process):
            deadline = time.monotonic() + _START_SECONDS
            while not sock.exists():
                assert process.poll() is None, 'the server ended'
                assert time.monotonic() < deadline, 'the server is slow'
                time.sleep(0.01)
            yield Served(str(sock), process)


@contextlib.contextmanager
def _ended(process):
    try:
        yield
    finally:
        process.kill()
        process.wait()


class Served(export.Export):
    """An export, with the process that serves it."""

    def __init__(self, sock, process):
        super().__init__(sock, '')
        object.__setattr__(self, 'process', process)

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

"""Run one qemu-nbd, with resource limits.

By nova-compute itself, or by its privileged process for a disk that
nova-compute may not read.
"""

import socket as sockets
import subprocess
import tempfile

from oslo_utils import units

from nova_snapdriver.capture import export
from nova_snapdriver import child
from nova_snapdriver import exception
from nova_snapdriver import waiting

_START_SECONDS = 60
_POLL_SECONDS = 0.01

# The first bytes that a server sends, after it has opened the disk. Source:
# the NBD protocol, "Handshake phase".
_GREETING = b'NBDMAGIC'

# A damaged image must not exhaust the host's memory (CVE-2015-5162). The limit
# is far above what qemu-nbd uses, as the stacks of its threads, and librbd's,
# reserve a lot.
_LIMITS = ('--as=%d' % (4 * units.Gi), '--nofile=1024', '--core=0',
           # It writes only its messages.
           '--fsize=%d' % units.Mi)
_MESSAGE_BYTES = 2000


def command(socket: str, description: str, name: str) -> list[str]:
    """The command line of a server that ends with its parent process.

    :param description: the disk as JSON, from
        :func:`nova_snapdriver.capture.blockdev.description`: with a driver at
        every level, so that no format is probed
    """
    return ['prlimit', *_LIMITS, 'setpriv', '--pdeathsig', 'TERM',
            'qemu-nbd', '--read-only', '--persistent', '--shared=0',
            '--socket', socket, '--export-name', name, '--',
            'json:' + description]


class Server:
    """A running qemu-nbd.

    :raises CaptureFailed: it could not be started; with its own message
    """

    def __init__(self, socket: str, description: str, name: str) -> None:
        self._socket = socket
        with tempfile.TemporaryFile() as messages:
            try:
                # The kernel ties the life of the child to the thread that
                # starts it, which serves the request until its end.
                self._process = subprocess.Popen(
                    command(socket, description, name), cwd='/',
                    stdin=subprocess.DEVNULL, stdout=messages,
                    stderr=messages, env=child.environment(), umask=0o077)
            except OSError as ex:
                raise exception.CaptureFailed(
                    reason='cannot start qemu-nbd: %s' % ex) from ex
            try:
                self._wait()
            except BaseException as ex:
                self.end()
                if not isinstance(ex, exception.CaptureFailed):
                    raise
                messages.seek(0)
                raise exception.CaptureFailed(reason='%s %s' % (
                    ex.kwargs['reason'], messages.read(_MESSAGE_BYTES).decode(
                        errors='replace').strip())) from ex

    @property
    def pid(self) -> int:
        return self._process.pid

    def _wait(self) -> None:
        if not waiting.wait_until(self._ready, _START_SECONDS, _POLL_SECONDS):
            raise exception.CaptureFailed(
                reason='no export by qemu-nbd after %d s:' % _START_SECONDS)

    def _ready(self) -> bool:
        if greets(self._socket):
            return True
        if self._process.poll() is not None:
            raise exception.CaptureFailed(
                reason='the disk cannot be exported by qemu-nbd:')
        return False

    def end(self) -> None:
        """Terminate it; kill it if it does not end. Idempotent."""
        child.end(self._process)


def is_gone(source: export.Export) -> bool:
    """Whether nobody serves an export any more, and we have not ended it."""
    return not source.ended_early and not greets(source.socket)


def greets(path: str) -> bool:
    """Whether an NBD server answers on a socket."""
    with sockets.socket(sockets.AF_UNIX) as connection:
        connection.settimeout(1)
        try:
            connection.connect(path)
            return connection.recv(len(_GREETING)) == _GREETING
        except OSError:
            return False

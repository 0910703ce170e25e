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

"""An NBD server that lies, as a broken or hostile one might.

Source: the NBD protocol's description, "Handshake phase", "Transmission
phase" and "Structured replies".
"""

import collections.abc
import contextlib
import dataclasses
import pathlib
import socket
import struct
import threading
import time
from typing import Self

MAGIC = b'NBDMAGIC'
OPTIONS = b'IHAVEOPT'
FLAGS = struct.pack('>H', 3)            # fixed newstyle, no zeroes
_OPTION = struct.Struct('>8sII')
_OPTION_REPLY = struct.Struct('>QIII')
_OPTION_MAGIC = 0x3e889045565a9
_REQUEST = struct.Struct('>IHHQQI')
_CHUNK = struct.Struct('>IHHQI')
_CHUNK_MAGIC = 0x668e33ef

_GO, _STRUCTURED, _SET_META = 7, 8, 10
_ACK, _INFO, _META = 1, 3, 4
_UNSUPPORTED = 0x80000001
_READ, _DISCONNECT, _BLOCK_STATUS = 0, 2, 7
_DONE = 1
_NONE, _DATA, _STATUS, _ERROR = 0, 1, 5, 0x8001
# Has flags, read-only, can multi-conn.
_EXPORT_FLAGS = 0x103

MI = 1 << 20
Extents = collections.abc.Iterable[tuple[int, int]]


@dataclasses.dataclass(frozen=True)
class Request:
    """A request to read, or for the map."""

    handle: int
    offset: int
    length: int

    def chunk(self, kind: int, content: bytes = b'',
              length: int | None = None, flags: int = _DONE) -> bytes:
        """Return a chunk; `length` is what it claims to be long."""
        return _CHUNK.pack(
            _CHUNK_MAGIC, flags, kind, self.handle,
            len(content) if length is None else length) + content

    def data(self, content: bytes, offset: int | None = None,
             flags: int = _DONE) -> bytes:
        at = self.offset if offset is None else offset
        return self.chunk(_DATA, struct.pack('>Q', at) + content,
                          flags=flags)

    def map(self, extents: Extents) -> bytes:
        """Return a map of (length, flags); flag 2 is for zeros."""
        words = [word for extent in extents for word in extent]
        return self.chunk(_STATUS, struct.pack(f'>I{len(words)}I', 1, *words))

    def error(self, number: int = 5, message: bytes = b'no') -> bytes:
        return self.chunk(_ERROR, struct.pack('>IH', number, len(message))
                          + message)

    def nothing(self) -> bytes:
        return self.chunk(_NONE)


Answer = collections.abc.Callable[[Request], bytes]


def whole(request: Request) -> bytes:
    return request.map([(request.length, 0)])


def zeros(request: Request) -> bytes:
    return request.data(bytes(request.length))


@dataclasses.dataclass(frozen=True)
class Lie:
    """What a server answers; honest by default.

    An answer without bytes ends the connection, and `SILENT` leaves the
    client waiting.
    """

    greeting: bytes = MAGIC + OPTIONS + FLAGS
    size: int = 64 * MI
    status: Answer = whole
    read: Answer = zeros
    #: The answer to the options.
    options: bytes | None = None
    #: Seconds between two bytes.
    trickle: float = 0.0


SILENT = b'\0silent'


class Server:
    """Serves a lie on a unix socket."""

    def __init__(self, lie: Lie, path: pathlib.Path) -> None:
        self.path = path
        self._lie = lie
        self._listening = socket.socket(socket.AF_UNIX)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._listening.bind(str(self.path))
        self._listening.listen()
        self._listening.settimeout(0.2)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()
        self._listening.close()

    def _run(self) -> None:
        while not self._ended.is_set():
            # The client is expected to hang up.
            with contextlib.suppress(OSError, EOFError):
                connection, _ = self._listening.accept()
                with connection:
                    connection.settimeout(60)
                    _Conversation(self._lie, connection, self._ended).run()


class _Conversation:
    def __init__(self, lie: Lie, connection: socket.socket,
                 ended: threading.Event) -> None:
        self._lie = lie
        self._connection = connection
        self._ended = ended

    def run(self) -> None:
        self._send(self._lie.greeting)
        self._receive(4)                # the client's flags
        if self._lie.options is not None:
            self._send(self._lie.options)
            return
        while self._option():
            pass
        while self._request():
            pass

    def _send(self, content: bytes) -> None:
        if content == SILENT:
            self._wait_gone()
        if not content:
            raise EOFError
        if not self._lie.trickle:
            self._connection.sendall(content)
            return
        for byte in content:
            self._connection.sendall(bytes([byte]))
            if self._ended.wait(self._lie.trickle):
                raise EOFError

    def _wait_gone(self) -> None:
        """Stay silent until the client hangs up, or the server ends."""
        while not self._ended.is_set() and self._connection.recv(1 << 16):
            time.sleep(0.01)
        raise EOFError

    def _receive(self, length: int) -> bytes:
        content = b''
        while len(content) < length:
            more = self._connection.recv(length - len(content))
            if not more:
                raise EOFError
            content += more
        return content

    def _option(self) -> bool:
        """Answer an option; return whether more may follow."""
        _, option, length = _OPTION.unpack(self._receive(_OPTION.size))
        self._receive(length)
        if option == _SET_META:
            self._reply(option, _META,
                        struct.pack('>I', 1) + b'base:allocation')
        elif option == _GO:
            self._reply(option, _INFO, struct.pack(
                '>HQH', 0, self._lie.size, _EXPORT_FLAGS))
        known = option in (_GO, _STRUCTURED, _SET_META)
        self._reply(option, _ACK if known else _UNSUPPORTED)
        return bool(option != _GO)

    def _reply(self, option: int, kind: int, content: bytes = b'') -> None:
        self._send(_OPTION_REPLY.pack(
            _OPTION_MAGIC, option, kind, len(content)) + content)

    def _request(self) -> bool:
        """Answer a request; return whether more may follow."""
        _, _, kind, handle, offset, length = _REQUEST.unpack(
            self._receive(_REQUEST.size))
        request = Request(handle, offset, length)
        if kind == _READ:
            self._send(self._lie.read(request))
        elif kind == _BLOCK_STATUS:
            self._send(self._lie.status(request))
        return bool(kind != _DISCONNECT)


def alternating(size: int) -> Answer:
    """Return a map that alternates each `size` bytes, from data on."""
    def answer(request: Request) -> bytes:
        first = request.offset // size
        return request.map((size, 2 * ((first + number) % 2))
                           for number in range(request.length // size))

    return answer


def _later(answer: Answer, offset: int) -> Answer:
    """Answer zeros before an offset, and something else after it."""
    return lambda request: (
        zeros(request) if request.offset < offset else answer(request))


#: Each of these has to end in an error, and never in an image.
LIES: dict[str, Lie] = {
    'no greeting': Lie(greeting=SILENT),
    'a greeting that trickles': Lie(trickle=0.5),
    'the wrong magic': Lie(greeting=b'NBDMAGIK' + OPTIONS + FLAGS),
    'HTTP': Lie(greeting=b'HTTP/1.1 200 OK\r\n\r\n'),
    'zeros for a greeting': Lie(greeting=bytes(4096)),
    'noise for options': Lie(options=b'\xff' * 4096),
    'an option of 4 GiB': Lie(options=_OPTION_REPLY.pack(
        _OPTION_MAGIC, _STRUCTURED, _ACK, 0xffffffff)),
    'a disk of 8 EiB': Lie(size=(1 << 63) - 1),
    'a disk of 16 EiB': Lie(size=(1 << 64) - 1),
    'a disk of 1 PiB': Lie(size=1 << 50),
    'no map': Lie(status=lambda request: SILENT),
    'a map that is an error': Lie(status=Request.error),
    'a map of nothing': Lie(status=Request.nothing),
    'a map of no extents': Lie(status=lambda request: request.map([])),
    'extents of length 0': Lie(
        status=lambda request: request.map([(0, 0)] * 8)),
    'a map without an end': Lie(
        size=1 << 47, status=lambda request: request.map([(1, 2)])),
    'eight million extents at once': Lie(
        status=lambda request: request.map([(1, 0)] * (8 * MI - 1))),
    'a map of a wrong length': Lie(status=lambda request: request.chunk(
        _STATUS, struct.pack('>I', 1) + bytes(7))),
    'a map of 4 GiB': Lie(status=lambda request: request.chunk(
        _STATUS, bytes(64), 0xffffffff)),
    'a map cut in the middle': Lie(status=lambda request: request.map(
        [(512, 0)] * 100)[:400]),
    'no data': Lie(read=_later(lambda request: SILENT, MI)),
    'an error for data': Lie(read=_later(Request.error, MI)),
    'a read of nothing': Lie(read=_later(Request.nothing, MI)),
    'half of the data': Lie(read=_later(
        lambda request: request.data(bytes(request.length // 2)), MI)),
    'one half of the data twice': Lie(read=_later(
        lambda request: request.data(bytes(request.length // 2), flags=0)
        + request.data(bytes(request.length // 2)), MI)),
    'too much data': Lie(read=_later(
        lambda request: request.data(bytes(request.length + 512)), MI)),
    'data of another place': Lie(read=_later(
        lambda request: request.data(bytes(request.length), 0), MI)),
    'data that is a map': Lie(read=_later(whole, MI)),
    'data for nobody': Lie(read=_later(lambda request: dataclasses.replace(
        request, handle=request.handle ^ 0xffff).data(bytes(512)), MI)),
    'data cut in the middle': Lie(read=_later(
        lambda request: zeros(request)[:1000] if request.offset < 2 * MI
        else b'', MI)),
}

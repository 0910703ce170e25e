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

"""A proxy before Glance that slows, breaks and falsifies uploads."""

import collections.abc
import dataclasses
import http.client
import http.server
import json
import re
import socket
import struct
import threading
import time
from typing import Self

from lab.openstack import settings

PIECE_BYTES = 64 << 10
UPSTREAM_TIMEOUT = 300.0
UPLOAD = re.compile(r'/v2/images/[^/]+/file$')
IMAGE = re.compile(r'/v2/images/[0-9a-f-]+$')
# Headers of a connection, which are not passed on.
HOP = ('connection', 'content-length', 'transfer-encoding', 'keep-alive')
# With this, close() sends a reset.
NO_LINGER = struct.pack('ii', 1, 0)


@dataclasses.dataclass(frozen=True)
class Fault:
    """What happens to an upload.

    By `kind`, at byte `at` of the upload:

    * `hold`: stop until released; `stall`: stop reading for good
    * `cut`, `reset`: end the connection; `refuse`: answer `status` and end it

    and for the whole of it:

    * `slow`: pass on `rate` bytes a second
    * `answer`: read everything and answer `status`
    * `lost`: pass it on, and end the connection instead of answering
    * `nothing`, `short`, `flip`: store nothing, a byte less, or another byte,
      and answer that all is well
    * `size`, `hash`: show another size or hash of the image afterwards

    :param times: the number of uploads that this happens to
    """

    kind: str
    at: int = 0
    status: int = 0
    rate: int = 0
    times: int = 1


class Proxy(http.server.ThreadingHTTPServer):
    """Passes on requests and answers, but for faults."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 64

    def __init__(self, conf: settings.Settings) -> None:
        super().__init__((settings.ADDRESS, conf.ports.proxy), _Handler)
        self.target = (settings.ADDRESS, conf.ports.glance)
        self._lock = threading.Lock()
        self._fault: Fault | None = None
        self._left = 0
        self.held = threading.Event()
        self.released = threading.Event()

    @property
    def url(self) -> str:
        return f'http://{settings.ADDRESS}:{self.server_address[1]}'

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.clear()
        self.shutdown()
        self.server_close()

    def handle_error(self, request: object, client_address: object) -> None:
        """Print nothing: clients that hang up are expected."""

    def arm(self, fault: Fault) -> None:
        """Apply a fault to the next uploads."""
        with self._lock:
            self._fault, self._left = fault, fault.times
            self.held.clear()
            self.released.clear()

    def clear(self) -> None:
        """Apply no fault any more, and release what is held."""
        with self._lock:
            self._fault = None
            self.released.set()

    def take(self) -> Fault | None:
        """Return the fault for an upload that begins."""
        with self._lock:
            if self._fault is None or not self._left:
                return None
            self._left -= 1
            return self._fault

    def lie(self) -> str | None:
        """Return what to falsify in an answer: size, hash or nothing."""
        fault = self._fault
        return fault.kind if fault and fault.kind in ('size', 'hash') else None


class _Gone(Exception):
    """The connection ends here."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    server: Proxy

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""

    def handle_one_request(self) -> None:
        """Take one request a connection, as Glance in the lab does."""
        super().handle_one_request()
        self.close_connection = True

    def _serve(self) -> None:
        upload = self.command == 'PUT' and UPLOAD.search(self.path)
        fault = self.server.take() if upload else None
        try:
            if fault is not None and fault.kind in ('answer', 'nothing'):
                for _ in self._body():
                    pass
                self._answer(fault.status or 204, b'')
            else:
                self._pass_on(fault)
        except _Gone:
            pass
        self.close_connection = True

    do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = do_HEAD = _serve

    # The body

    def _body(self) -> collections.abc.Iterator[bytes]:
        if 'chunked' in self.headers.get('Transfer-Encoding', ''):
            yield from self._chunks()
            return
        left = self._length
        while left:
            piece = self.rfile.read(min(left, PIECE_BYTES))
            if not piece:
                raise _Gone
            left -= len(piece)
            yield piece

    def _chunks(self) -> collections.abc.Iterator[bytes]:
        while True:
            line = self.rfile.readline()
            if not line:
                raise _Gone
            size = int(line.split(b';')[0], 16)
            piece = self.rfile.read(size)
            if len(piece) < size or not self.rfile.readline():
                raise _Gone
            if not size:
                return
            yield piece

    @property
    def _length(self) -> int:
        return int(self.headers.get('Content-Length') or 0)

    def _faulty(self, fault: Fault | None
                ) -> collections.abc.Iterator[bytes]:
        """Yield the body as the fault changes it."""
        done, began = 0, time.monotonic()
        for piece in self._body():
            before, done = done, done + len(piece)
            if fault is not None and fault.kind == 'slow':
                time.sleep(max(
                    0.0, began + done / fault.rate - time.monotonic()))
            elif fault is not None and before <= fault.at < done:
                self._happen(fault)
                piece = _spoiled(piece, fault.kind)
            yield piece

    def _happen(self, fault: Fault) -> None:
        if fault.kind in ('hold', 'stall'):
            self.server.held.set()
            self.server.released.wait()
        if fault.kind == 'refuse':
            self._answer(fault.status, b'')
        if fault.kind == 'reset':
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                                       NO_LINGER)
            self.connection.close()
        if fault.kind in ('cut', 'stall', 'reset', 'refuse'):
            raise _Gone

    # Both ways

    def _pass_on(self, fault: Fault | None) -> None:
        upstream = http.client.HTTPConnection(
            *self.server.target, timeout=UPSTREAM_TIMEOUT)
        try:
            reply = self._ask(upstream, fault)
            content = reply.read()
            if fault is not None and fault.kind == 'lost':
                raise _Gone
            if self.command == 'GET' and IMAGE.search(self.path):
                content = _twisted(content, self.server.lie())
            self._answer(reply.status, content, [
                (name, value) for name, value in reply.getheaders()
                if name.lower() not in HOP])
        except (OSError, http.client.HTTPException):
            # Glance is away or has hung up, and so does the proxy.
            raise _Gone from None
        finally:
            upstream.close()

    def _ask(self, upstream: http.client.HTTPConnection,
             fault: Fault | None) -> http.client.HTTPResponse:
        chunked = 'chunked' in self.headers.get('Transfer-Encoding', '')
        upstream.putrequest(self.command, self.path, skip_host=True,
                            skip_accept_encoding=True)
        for name, value in self._headers(fault):
            upstream.putheader(name, value)
        upstream.endheaders()
        try:
            for piece in self._faulty(fault):
                upstream.send(b'%x\r\n%s\r\n' % (len(piece), piece)
                              if chunked else piece)
            if chunked:
                upstream.send(b'0\r\n\r\n')
        except (BrokenPipeError, ConnectionResetError):
            pass        # Glance may have answered early
        return upstream.getresponse()

    def _headers(self, fault: Fault | None
                 ) -> collections.abc.Iterator[tuple[str, str]]:
        short = fault is not None and fault.kind == 'short'
        for name, value in self.headers.items():
            if short and name.lower() in ('content-length',
                                          'x-openstack-image-size'):
                value = str(int(value) - 1)
            if name.lower() not in ('connection', 'keep-alive'):
                yield name, value

    def _answer(self, status: int, content: bytes,
                headers: list[tuple[str, str]] | None = None) -> None:
        self.send_response(status)
        for name, value in headers or []:
            self.send_header(name, value)
        if status != 204:
            self.send_header('Content-Length', str(len(content)))
        self.send_header('Connection', 'close')
        self.end_headers()
        if self.command != 'HEAD':
            self.wfile.write(content)


def _spoiled(piece: bytes, kind: str) -> bytes:
    """Return what a Glance that errs would store of a piece."""
    if kind == 'short':
        return piece[:-1]
    if kind == 'flip':
        return piece[:-1] + bytes([piece[-1] ^ 1])
    return piece


def _twisted(content: bytes, lie: str | None) -> bytes:
    """Falsify what Glance shows of an active image."""
    if lie is None:
        return content
    image = json.loads(content)
    if image.get('status') == 'active':
        if lie == 'size':
            image['size'] -= 1
        else:
            image['os_hash_value'] = image['os_hash_value'][::-1]
    return json.dumps(image).encode()

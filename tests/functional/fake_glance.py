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

"""A Glance that misbehaves on request. The lab has a real one."""

import hashlib
import http.server
import json
import socket
import struct
import threading
import time

SCHEMA = {
    'name': 'image',
    'properties': {name: {'type': ['null', 'string', 'integer']} for name in (
        'id', 'name', 'status', 'size', 'checksum', 'os_hash_algo',
        'os_hash_value', 'disk_format', 'container_format', 'min_disk',
        'min_ram', 'visibility', 'schema', 'self', 'direct_url', 'file',
        'tags', 'owner')},
    'additionalProperties': {'type': 'string'},
}

# Bytes that it takes at a time if its rate is limited.
STEP = 256 * 1024
REFUSAL = b'<html><body>Refused: no luck today</body>'


class FakeGlance(http.server.ThreadingHTTPServer):
    """One image, and a list of what to do to the next uploads.

    ``faults`` holds, for one upload each: a status to answer with, or that
    and a Retry-After; 'break' to hang up in the middle; 'lost' to store
    the image and hang up instead of answering; 'flip' to store another byte;
    'short' to store less; 'nothing' to store nothing and say that all is well;
    'stall' to stop reading in the middle, and 'mute' at the end, for ever;
    ('early', STATUS) to answer in the middle, and reset the connection;
    ('commit', READS) to answer 504, and store the image when it has been read
    so many times.
    ``lag`` is how many reads after an upload still show the image before it.
    ``rate`` limits an upload, in bytes per second; None means unlimited.
    ``requests`` are the methods of what was asked of the image, in order.
    ``label_fault`` is the status for a change of this driver's properties.
    ``protected`` are the paths of properties that nobody may change.
    ``location_fault`` is the status for a request that sets a location.
    ``located_size`` is the size of what a location names.
    ``stores`` is the list of its stores, as its API gives it; None for a
    Glance with one store alone.
    """

    daemon_threads = True

    def __init__(self, image_id):
        super().__init__(('127.0.0.1', 0), _Handler)
        self.image = {'id': image_id, 'name': 'a snapshot',
                      'status': 'queued', 'min_disk': 3, 'min_ram': 64,
                      'base_image_ref': 'b', 'visibility': 'private',
                      'schema': '/v2/schemas/image'}
        self.faults = []
        self.rate = None
        self.stuck = threading.Event()
        self._released = threading.Event()
        self.algorithm = 'sha512'
        self.uploads = []
        self.committing = None
        self.lag = 0
        self.headers = []
        self.requests = []
        self.deleted = False
        self.label_fault = None
        self.protected = set()
        self.location_fault = None
        self.location = None
        self.data = None
        self.stores = None
        self.located_size = None

    @property
    def url(self):
        return 'http://127.0.0.1:%d' % self.server_address[1]

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exc):
        self._released.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, request, client_address):
        """A client that hangs up is part of the tests."""

    def hang(self):
        self.stuck.set()
        self._released.wait()

    def read(self):
        """The image, one read later."""
        if self.committing is not None:
            self.committing[0] -= 1
            if self.committing[0] <= 0:
                self.store(self.committing[1])
                self.committing = None
        if self.lag and self.image['status'] == 'active':
            self.lag -= 1
            return dict(self.image, status='saving', size=None)
        return self.image

    def store(self, data):
        self.data = data
        self.image.update(
            status='active', size=len(data), os_hash_algo=self.algorithm,
            os_hash_value=hashlib.new(self.algorithm, data).hexdigest())


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'

    def log_message(self, *args):
        """No noise."""

    def _answer(self, status, body=b'', kind='application/json', **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if body:
            self.send_header('Content-Type', kind)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        if self.path.startswith('/versions'):
            return self._answer(200, b'{"versions": []}')
        if self.path.startswith('/v2/schemas/image'):
            return self._answer(200, json.dumps(SCHEMA).encode())
        if self.path == '/v2/info/stores':
            if self.server.stores is None:
                return self._answer(404)
            return self._answer(
                200, json.dumps({'stores': self.server.stores}).encode())
        if self.server.deleted:
            return self._answer(404)
        self.server.requests.append('GET')
        return self._answer(200, json.dumps(self.server.read()).encode())

    def do_PATCH(self):
        length = int(self.headers['Content-Length'])
        changes = json.loads(self.rfile.read(length))
        self.server.requests.append('PATCH')
        if self.server.protected & {change['path'] for change in changes}:
            return self._answer(403)
        if self.server.label_fault and any(
                change['path'].startswith('/snapdriver_')
                for change in changes):
            return self._answer(self.server.label_fault)
        for change in changes:
            name = change['path'].lstrip('/')
            if name == 'locations/-':
                if self.server.location_fault:
                    return self._answer(self.server.location_fault)
                self.server.location = change['value']['url']
                self.server.image.update(status='active',
                                         size=self.server.located_size)
            elif change['op'] == 'remove':
                self.server.image.pop(name)
            else:
                self.server.image[name] = change['value']
        return self._answer(200, json.dumps(self.server.image).encode())

    def do_DELETE(self):
        self.server.deleted = True
        self._answer(204)

    def do_PUT(self):
        self.server.requests.append('PUT')
        self.server.headers.append(dict(self.headers))
        length = int(self.headers['Content-Length'])
        if self.server.image['status'] != 'queued':
            self.close_connection = True
            return self._refuse(409)
        fault = self.server.faults.pop(0) if self.server.faults else None
        kind, value = fault if isinstance(fault, tuple) else (fault, None)
        if kind in ('break', 'stall', 'early'):
            return self._interrupt(kind, value, length)
        data = self._read(length)
        if len(data) < length:
            self.close_connection = True
            return None
        if kind == 'mute':
            self.server.hang()
            self.close_connection = True
            return None
        self.server.uploads.append(data)
        return self._conclude(kind, value, data)

    def _refuse(self, status, **headers):
        self._answer(status, REFUSAL, 'text/html', **headers)

    def _interrupt(self, kind, status, length):
        self._read(length // 4)
        if kind == 'stall':
            self.server.hang()
        if kind == 'early':
            self._refuse(status)
            # With a body that is not read, and no FIN before that.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                                       struct.pack('ii', 1, 0))
            self.rfile.close()
            self.wfile.close()
            self.connection.close()
        self.close_connection = True

    def _conclude(self, kind, value, data):
        if isinstance(kind, int):
            return self._refuse(kind, **({'Retry-After': value} if value
                                         else {}))
        if kind == 'commit':
            self.server.image['status'] = 'saving'
            self.server.committing = [value, data]
            return self._refuse(504)
        self._keep(data, kind)
        if kind == 'lost':
            self.close_connection = True
            return None
        return self._answer(204)

    def _read(self, length):
        if not self.server.rate:
            return self.rfile.read(length)
        data = bytearray()
        while len(data) < length:
            piece = self.rfile.read(min(STEP, length - len(data)))
            if not piece:
                break
            data += piece
            time.sleep(len(piece) / self.server.rate)
        return bytes(data)

    def _keep(self, data, fault):
        if fault == 'flip':
            data = data[:-1] + bytes([data[-1] ^ 1])
        elif fault == 'short':
            data = data[:-1]
        if fault != 'nothing':
            self.server.store(data)

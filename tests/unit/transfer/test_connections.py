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

"""Servers that answer before they have a whole body, with TLS and without."""

import datetime
import http.server
import ipaddress
import ssl
import threading
import types

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives import serialization
from cryptography import x509
import pytest

from nova_snapdriver.transfer import connections

CHUNK = 1 << 20
CHUNKS = 32


@pytest.fixture(scope='module')
def certificate(tmp_path_factory):
    """A file with a key and its certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, 'glance')])
    begin = datetime.datetime(2020, 1, 1)
    made = x509.CertificateBuilder(
        name, name, key.public_key(), 1, begin, begin.replace(2100),
    ).add_extension(x509.SubjectAlternativeName([
        x509.IPAddress(ipaddress.ip_address('127.0.0.1'))]), False
    ).sign(key, hashes.SHA256())
    path = tmp_path_factory.mktemp('tls') / 'glance.pem'
    path.write_bytes(key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption()) +
        made.public_bytes(serialization.Encoding.PEM))
    return path


class Handler(http.server.BaseHTTPRequestHandler):
    """Takes what is sent to /whole; answers /early after the first chunk."""

    protocol_version = 'HTTP/1.1'

    def log_message(self, *args):
        """No noise."""

    def do_PUT(self):
        self.server.seen.append((self.path, self.client_address))
        length = int(self.headers['Content-Length'])
        if self.path == '/whole':
            while length:
                length -= len(self.rfile.read(min(CHUNK, length)))
        else:
            self.rfile.read(CHUNK)
        self.send_response(200 if self.path == '/whole' else 413)
        self.send_header('Content-Length', '2')
        self.end_headers()
        self.wfile.write(b'ok')
        if self.path == '/early':
            # Neither reads any more nor hangs up.
            self.server.ended.wait(60)
            self.close_connection = True


@pytest.fixture(params=('http', 'https'))
def server(request, certificate, monkeypatch):
    monkeypatch.setenv('no_proxy', '*')
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0),
                                         Handler) as serving:
        serving.daemon_threads = True
        serving.seen, serving.ended = [], threading.Event()
        serving.url = '%s://127.0.0.1:%d' % (request.param,
                                             serving.server_address[1])
        if request.param == 'https':
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            serving.socket = context.wrap_socket(serving.socket, True)
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield serving
        serving.ended.set()
        serving.shutdown()


class Body:
    """A body of many chunks, which counts those that were taken."""

    taken = 0

    def __len__(self):
        return CHUNK * CHUNKS

    def __iter__(self):
        for _ in range(CHUNKS):
            self.taken += 1
            yield memoryview(bytes(CHUNK))


@pytest.fixture
def put(server, certificate):
    """Sends a body; returns the status of the answer, and the body."""
    ours = connections.Connections()
    session = ours.session(types.SimpleNamespace(
        verify=str(certificate), cert=None, timeout=60))

    def send(path):
        body = Body()
        answer = session.put(server.url + path, data=body, raise_exc=False,
                             authenticated=False)
        assert answer.text == 'ok'
        return answer.status_code, body

    yield send
    ours.close()


def test_whole_bodies_share_a_connection(put, server):
    """Also after messages of TLS's own, which are no answers."""
    for _ in range(2):
        status, body = put('/whole')
        assert status == 200
        assert body.taken == CHUNKS
    if server.url.startswith('http:'):
        (_, first), (_, second) = server.seen
        assert first == second


def test_early_answer_is_read_at_once(put, server):
    status, body = put('/early')
    assert status == 413
    assert body.taken < CHUNKS
    # Nobody may take the rest of it for another request.
    assert put('/whole')[0] == 200
    (_, first), (_, second) = server.seen
    assert first != second

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

"""The proxy before Glance, with a small server for Glance."""

import http.client
import http.server
import threading
import time

import pytest

from lab.openstack import proxy
from lab.openstack import settings

UPLOAD = '/v2/images/1/file'
MI = 1 << 20


class Handler(http.server.BaseHTTPRequestHandler):
    """Keeps what is uploaded whole.

    Of an upload that ends on the way it may hear after the test.
    """

    def do_PUT(self):
        length = int(self.headers['Content-Length'])
        content = self.rfile.read(length)
        if len(content) == length:
            self.server.stored.append(content)
        self.send_response(204)
        self.end_headers()

    def log_message(self, *args):
        pass


@pytest.fixture(scope='module')
def server():
    server = http.server.ThreadingHTTPServer((settings.ADDRESS, 0), Handler)
    server.stored = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope='module')
def before(server, tmp_path_factory):
    ports = settings.Ports(glance=server.server_port, proxy=0)
    path = tmp_path_factory.mktemp('lab')
    with proxy.Proxy(settings.Settings(path, path, '', ports)) as one:
        yield one


@pytest.fixture
def glance(server, before):
    yield server
    before.clear()
    server.stored.clear()


def put(before, content):
    connection = http.client.HTTPConnection(*before.server_address[:2],
                                            timeout=10)
    connection.request('PUT', UPLOAD, content)
    return connection.getresponse().status


def test_uploads_pass_without_a_fault(glance, before):
    content = bytes(range(256)) * 1000
    assert put(before, content) == 204
    assert glance.stored == [content]


def test_slow_is_the_rate_of_the_whole(glance, before):
    before.arm(proxy.Fault('slow', rate=4 * MI, times=2))
    for _ in range(2):
        began = time.monotonic()
        assert put(before, bytes(MI)) == 204
        assert 0.2 < time.monotonic() - began < 30
    assert [len(content) for content in glance.stored] == [MI, MI]


@pytest.mark.parametrize('kind', ('cut', 'reset'))
def test_a_connection_that_ends_on_the_way(glance, before, kind):
    before.arm(proxy.Fault(kind, at=100_000))
    with pytest.raises((OSError, http.client.HTTPException)):
        put(before, bytes(MI))
    assert put(before, bytes(10)) == 204, 'it was for one upload'


def test_refused_after_everything_was_read(glance, before):
    before.arm(proxy.Fault('answer', status=413))
    assert put(before, bytes(MI)) == 413
    assert glance.stored == []


def test_answer_that_is_lost(glance, before):
    before.arm(proxy.Fault('lost'))
    with pytest.raises((OSError, http.client.HTTPException)):
        put(before, bytes(10))
    assert glance.stored == [bytes(10)]


@pytest.mark.parametrize('kind, stored', [
    ('flip', bytes(9) + b'\1'), ('nothing', None)])
def test_lies(glance, before, kind, stored):
    before.arm(proxy.Fault(kind))
    assert put(before, bytes(10)) == 204
    assert glance.stored == ([stored] if stored else [])


def test_held_until_it_is_cleared(glance, before):
    before.arm(proxy.Fault('hold'))
    statuses = []
    upload = threading.Thread(
        target=lambda: statuses.append(put(before, bytes(10))))
    upload.start()
    assert before.held.wait(10)
    assert not glance.stored
    before.clear()
    upload.join()
    assert statuses == [204]

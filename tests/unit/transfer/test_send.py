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

"""A destination of the test's own: Glance is one of them."""

import hashlib
from unittest import mock

import pytest

from nova_snapdriver import exception
from nova_snapdriver import journal
from nova_snapdriver.transfer import cancel
from nova_snapdriver.transfer import send
from tests.unit.transfer import fake_process

IMAGE = b'image' * 1000
DIGEST = hashlib.sha256(IMAGE).hexdigest()
CHILD = """
import sys
print('{"event": "layout", "length": 5000}', file=sys.stderr)
print('image' * 1000, end='')
print('{"event": "done", "length": 5000, "digest": "%s"}', file=sys.stderr)
"""
REQUEST = fake_process.Request(CHILD % DIGEST)


class File:
    """A file, as a destination; it is broken off so many times."""

    id = 'a file'

    def __init__(self, path, failures=0):
        self._path = path
        self._failures = failures
        self.calls = []

    def describe(self, metadata):
        self.calls.append(metadata)

    def upload(self, body):
        self.calls.append('upload')
        for attempt in range(self._failures + 1):
            body.prepare()
            with self._path.open('wb') as out:
                for chunk in body:
                    out.write(chunk)
                    if attempt < self._failures:
                        break

    def verify(self, sent, hashes):
        self.calls.append('verify')
        if hashes and hashlib.sha256(
                self._path.read_bytes()).hexdigest() != sent.digest:
            raise exception.VerifyFailed(reason='the file differs')

    def cancel(self):
        self.calls.append('cancel')

    def close(self):
        self.calls.append('close')


def sent(file):
    record = mock.create_autospec(journal.Record, instance=True)
    with cancel.Watch([]) as ends:
        length = send.send(file, {'name': 'x'}, REQUEST, record,
                           send.Settings(True, 60), ends)
    record.note_whole.assert_called_with(
        journal.Whole(len(IMAGE), 'sha256', DIGEST))
    return length


@pytest.mark.parametrize('failures', (0, 2))
def test_any_destination_takes_an_image(tmp_path, failures):
    file = File(tmp_path / 'image', failures)
    assert sent(file) == len(IMAGE)
    assert (tmp_path / 'image').read_bytes() == IMAGE
    assert file.calls == [{'name': 'x'}, 'upload', 'verify', 'close']


def test_destination_that_lost_a_byte_is_closed_too(tmp_path):
    class Lossy(File):
        def upload(self, body):
            super().upload(body)
            self._path.write_bytes(IMAGE[1:])

    file = Lossy(tmp_path / 'image')
    with pytest.raises(exception.VerifyFailed, match='differs'):
        sent(file)
    assert file.calls[-2:] == ['verify', 'close']

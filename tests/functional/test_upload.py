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

"""Uploads to a Glance that answers awkwardly; without libvirt, and a disk."""

import dataclasses
import sys
import threading
import time

from nova import context as nova_context
from nova import exception as nova_exception
from nova.image import glance as nova_glance
import pytest

from nova_snapdriver.capture import export
from nova_snapdriver import exception
from nova_snapdriver.transfer import body as image_body
from nova_snapdriver.transfer import image as snap_image
from nova_snapdriver.transfer import process
from nova_snapdriver.transfer import verify
from tests.functional import snapshots

MIB = 1 << 20
# More than the buffers of two sockets and a pipe.
LENGTH = 48 * MIB
PROGRAM = """
import hashlib, json, os, sys
def say(event, **values):
    os.write(2, json.dumps({'event': event, **values}).encode() + b'\\n')
length = int(sys.argv[1])
say('layout', length=length)
hashed = hashlib.sha512()
for at in range(0, length, 1 << 16):
    chunk = bytes([at >> 16 & 0xff]) * min(1 << 16, length - at)
    hashed.update(chunk)
    while chunk:
        chunk = chunk[os.write(1, chunk):]
say('done', length=length, digest=hashed.hexdigest())
"""


@dataclasses.dataclass(frozen=True)
class Request(process.Request):
    """Starts a program, with an argument, in place of the stream process."""

    program: str = PROGRAM
    argument: str = str(LENGTH)

    def command(self):
        return [sys.executable, '-c', self.program, self.argument,
                str(self.compression.place)]


def asked(image_format='raw', **program):
    return Request(export.Export('/nbd', 'vda'), image_format, 'sha512',
                   **program)


class Upload:
    """One image, as the driver sends it."""

    def __init__(self, retries=2):
        self.image = snap_image.Image(
            nova_context.RequestContext('user', 'project',
                                        auth_token='token'),
            snapshots.IMAGE_ID, nova_glance.API(),
            snap_image.Settings(retries, stall_timeout=60))

    def run(self, request=None):
        with image_body.ImageBody(request or asked()) as body:
            try:
                self.image.upload(body)
            finally:
                self.image.close()
            self.image.verify(verify.Sent(
                'sha512', body.length, body.digest, body.hash_again), True)


@pytest.fixture
def upload(glance, conf):
    return Upload()


@pytest.mark.quick
@pytest.mark.parametrize('status, expected', (
    (401, nova_exception.ImageNotAuthorized),
    (413, nova_exception.ImageQuotaExceeded),
    (415, exception.UploadFailed)))
def test_answer_that_comes_before_the_end_is_read(status, expected, upload,
                                                  glance):
    glance.faults = [('early', status)] * 3
    with pytest.raises(expected) as caught:
        upload.run()
    if expected is exception.UploadFailed:
        assert '415: Refused: no luck today' in str(caught.value)
    assert len(glance.headers) == 1     # it was not tried again


@pytest.mark.parametrize('status', (500, 503))
def test_glance_that_gives_up_in_the_middle_is_tried_again(status, upload,
                                                           glance):
    """On another connection: on that one the rest of the body is expected."""
    glance.faults = [('early', status)]
    upload.run()
    assert len(glance.headers) == 2
    assert glance.image['status'] == 'active'


@pytest.mark.quick
@pytest.mark.parametrize('retries', (0, 1))
def test_lost_answer_is_made_up_for_on_the_last_attempt_too(retries, glance):
    glance.faults = ['break'] * retries + ['lost']
    Upload(retries).run()
    assert len(glance.uploads) == 1
    assert glance.image['status'] == 'active'


def test_last_attempt_that_did_not_arrive_fails(glance):
    glance.faults = ['break']
    with pytest.raises(exception.UploadFailed):
        Upload(0).run()
    assert glance.image['status'] == 'queued'


@pytest.fixture
def short_patience(monkeypatch):
    """Broken uploads are noticed within a second."""
    monkeypatch.setattr(snap_image, '_SETTLE_SECONDS', 1)


def test_gateway_that_does_not_wait_for_the_commit(upload, glance,
                                                   short_patience):
    glance.faults = [('commit', 5)]
    upload.run()
    assert len(glance.headers) == 1     # it was not sent again
    assert glance.image['status'] == 'active'


def test_commit_that_does_not_end(upload, glance, short_patience,
                                  monkeypatch):
    monkeypatch.setattr(snap_image, '_COMMIT_SECONDS', 3)
    glance.faults = [('commit', 1 << 30)]
    with pytest.raises(exception.UploadFailed, match='409'):
        Upload(1).run()


def test_commit_is_not_waited_for_when_nobody_wants_it(upload, glance):
    glance.faults = [('commit', 1 << 30)]
    canceller = threading.Timer(4, upload.image.cancel)
    canceller.start()
    began = time.monotonic()
    with pytest.raises(exception.UploadFailed):
        upload.run()
    assert time.monotonic() - began < 30


def test_conflict_with_an_attempt_that_arrived(upload, glance, monkeypatch):
    """A node of the database that lags has hidden that it had."""
    glance.faults = ['lost']
    lagging = iter(['queued'])
    real = snap_image.Image._status
    monkeypatch.setattr(snap_image.Image, '_status', lambda image, server:
                        next(lagging, None) or real(image, server))
    upload.run()
    assert len(glance.headers) == 2
    assert len(glance.uploads) == 1


def test_database_that_lags_behind_the_upload(upload, glance):
    glance.lag = 3
    upload.run()
    assert len(glance.uploads) == 1


def test_database_that_lags_for_ever(upload, glance, monkeypatch):
    monkeypatch.setattr(snap_image, '_LAG_SECONDS', 2)
    glance.lag = 1 << 30
    with pytest.raises(exception.VerifyFailed, match='status is saving'):
        upload.run()


@pytest.mark.parametrize('status', (408, 429, 503))
def test_glance_says_when_to_come_back(status, upload, glance):
    glance.faults = [(status, '3')]
    began = time.monotonic()
    upload.run()
    assert time.monotonic() - began >= 3
    assert len(glance.uploads) == 2


def test_long_pause_ends_when_nobody_wants_the_image(upload, glance):
    glance.faults = [(429, '3600')]
    canceller = threading.Timer(4, upload.image.cancel)
    canceller.start()
    began = time.monotonic()
    with pytest.raises(exception.UploadFailed):
        upload.run()
    assert time.monotonic() - began < 30
    assert len(glance.headers) == 1


def header(*fields):
    """A sector that begins with these bytes, as (offset, bytes)."""
    sector = bytearray(512)
    for offset, content in fields:
        sector[offset:offset + len(content)] = content
    return bytes(sector)


QCOW2 = header((0, b'QFI\xfb'), (4, b'\0\0\0\3'))
BACKED = header((0, QCOW2), (8, (0x200).to_bytes(8, 'big')))
HYBRID = header((510, b'\x55\xaa'),
                (446, b'\0\0\2\0\xee\xff\xff\xff\1\0\0\0'),
                (462, b'\0\0\2\0\x83\xff\xff\xff\1\0\0\0'))


def take(sector, image_format='raw'):
    """Upload an image of just a sector."""
    Upload(0).run(asked(image_format, program=SECTOR, argument=sector.hex()))


SECTOR = """
import hashlib, os, sys
content = bytes.fromhex(sys.argv[1])
os.write(2, b'{"event": "layout", "length": %d}\\n' % len(content))
os.write(1, content)
os.write(2, b'{"event": "done", "length": %d, "digest": "%s"}\\n' % (
    len(content), hashlib.sha512(content).hexdigest().encode()))
"""


@pytest.mark.quick
@pytest.mark.parametrize('sector', (BACKED, header((0, b'QED\0'))))
def test_header_that_glance_refuses_is_not_sent(sector, glance):
    with pytest.raises(exception.ImageRefused, match='before the upload'):
        take(sector)
    assert glance.headers == []


@pytest.mark.parametrize('sector, image_format', (
    (QCOW2, 'raw'), (BACKED, 'qcow2'), (bytes(512), 'raw'), (b'short', 'raw'),
    (HYBRID, 'raw')))
def test_what_glance_may_take_is_sent(sector, image_format, glance):
    take(sector, image_format)
    assert glance.data == sector


def test_partition_table_that_glance_may_refuse_is_told(glance, caplog):
    take(HYBRID)
    assert 'gpt_safety_checks_nonfatal' in caplog.text


# Predicts 10, and needs 20 or a plain image.
GROWING = """
import hashlib, json, os, sys
def say(event, **values):
    os.write(2, json.dumps({'event': event, **values}).encode() + b'\\n')
needed = int(sys.argv[1])
place = 10 if sys.argv[2] == 'None' else int(sys.argv[2])
content = b'x' * (100 + place)
say('layout', length=len(content), place=place)
say('alive')
if 0 < place < needed:
    os.write(1, content[:7])
    say('outgrown', message='too much', place=20)
    sys.exit(1)
os.write(1, content)
say('done', length=len(content), digest=hashlib.sha512(content).hexdigest())
"""


@pytest.mark.quick
@pytest.mark.parametrize('needed, lengths', (
    (10, [110]), (20, [110, 120]), (30, [110, 120, 100])))
def test_image_that_outgrows_its_prediction_arrives(needed, lengths, glance):
    Upload(0).run(asked('qcow2', program=GROWING, argument=str(needed)))
    assert [int(one['Content-Length']) for one in glance.headers] == lengths
    assert glance.uploads == [b'x' * lengths[-1]]


def test_answer_that_is_lost_after_an_image_has_outgrown(glance):
    glance.faults = [None, 'lost']
    Upload(0).run(asked('qcow2', program=GROWING, argument='20'))
    assert len(glance.headers) == 2
    assert glance.data == b'x' * 120


LABELLED = {'disk_format': 'raw', 'properties': {
    'os_type': 'linux', 'snapdriver_path': 'live'}}


def test_labels_are_set(upload, glance):
    glance.image['snapdriver_captured_at'] = 'of the base image'
    upload.image.describe(LABELLED)
    assert glance.image['snapdriver_path'] == 'live'
    assert 'snapdriver_captured_at' not in glance.image


FIRST = {'disk_format': 'raw', 'properties': {'os_type': 'linux'}}
LAST = {'properties': {'snapdriver_path': 'live'}}


@pytest.mark.quick
def test_image_is_described_in_one_request_before_its_capture(upload, glance):
    glance.image['snapdriver_captured_at'] = 'of the base image'
    upload.image.describe_first(FIRST)
    assert glance.requests == ['PATCH']
    assert glance.image['disk_format'] == 'raw'
    assert glance.image['os_type'] == 'linux'
    # And in one after it.
    upload.image.describe(LAST)
    assert glance.requests == ['PATCH'] * 2
    assert glance.image['snapdriver_path'] == 'live'
    assert 'snapdriver_captured_at' not in glance.image
    assert glance.image['os_type'] == 'linux'


def test_image_without_labels_is_described_in_one_request(upload, glance):
    upload.image.describe_first(FIRST)
    upload.image.describe({})
    assert glance.requests == ['PATCH']


def test_protected_property_that_has_its_value_already(upload, glance):
    glance.image['os_type'] = 'linux'
    glance.protected = {'/os_type'}
    upload.image.describe_first(FIRST)
    assert glance.image['disk_format'] == 'raw'
    assert glance.requests == ['PATCH', 'GET', 'PATCH']


@pytest.mark.parametrize('status', (403, 413))
def test_labels_that_are_refused_are_left_out(upload, glance, status, caplog):
    glance.label_fault = status
    upload.image.describe(LABELLED)
    assert glance.image['os_type'] == 'linux'
    assert glance.image['disk_format'] == 'raw'
    assert 'snapdriver_path' not in glance.image
    assert 'snapdriver_properties' in caplog.text


def test_labels_of_another_image_are_removed(upload, glance):
    glance.image.update(snapdriver_path='live', os_type='linux')
    upload.image.remove_labels()
    assert 'snapdriver_path' not in glance.image
    assert glance.image['os_type'] == 'linux'


def test_snapshot_by_nova_goes_on_with_labels_that_stay(upload, glance,
                                                        caplog):
    glance.image.update(snapdriver_path='live')
    glance.label_fault = 403
    upload.image.remove_labels()
    assert 'may say how another one was made' in caplog.text

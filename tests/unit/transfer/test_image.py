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

import email.utils
import time
from unittest import mock

from nova import exception as nova_exception
import pytest

from nova_snapdriver import exception
from nova_snapdriver.transfer import image


@pytest.mark.parametrize('page, words', (
    ('', 'no reason given'),
    ('<html><h1>415</h1>\n<p>Image  failed checks</p></html>',
     '415 Image failed checks'),
    ('x' * 1000, 'x' * 300)))
def test_what_an_error_page_says(page, words):
    assert image._message(page) == words


def uploading(monkeypatch, retries, failures):
    """Upload a body that fails so; returns the attempts made."""
    attempts = []
    body = mock.MagicMock()
    body.__len__.side_effect = lambda: 100 + len(attempts)
    found = image.Image(None, 'id', None, image.Settings(retries, 1))

    def request(server, method, url, data, headers):
        attempts.append(headers['x-openstack-image-size'])
        if failures:
            raise failures.pop(0)

    monkeypatch.setattr(image.glance, 'get_api_servers',
                        lambda context: iter(lambda: 'http://g', None))
    monkeypatch.setattr(image.time, 'sleep', lambda seconds: None)
    monkeypatch.setattr(found, '_request', request)
    monkeypatch.setattr(found, '_settled', lambda server, whole: 'queued')
    found.upload(body)
    return attempts


def test_image_that_outgrows_its_prediction_is_sent_anew(monkeypatch):
    """With its new length, and without retries, too."""
    failures = [exception.Outgrown(7, reason='x') for _ in range(2)]
    assert uploading(monkeypatch, 0, failures) == ['100', '101', '102']


def test_image_that_outgrows_its_prediction_uses_no_retry_up(monkeypatch):
    """Glance may still be away once, as [glance] num_retries says."""
    failures = [exception.Outgrown(7, reason='x'),
                image.glance_exc.CommunicationError('away')]
    assert uploading(monkeypatch, 1, failures) == ['100', '101', '102']
    with pytest.raises(exception.UploadFailed):
        uploading(monkeypatch, 0, [
            exception.Outgrown(7, reason='x'),
            image.glance_exc.CommunicationError('away')])


def test_disk_that_cannot_be_read_is_not_sent_anew(monkeypatch):
    with pytest.raises(exception.StreamFailed):
        uploading(monkeypatch, 3, [exception.StreamFailed(reason='x')])


# Deletion


@pytest.fixture
def api():
    return mock.Mock()


@pytest.fixture
def one(api):
    return image.Image('context', 'image', api, image.Settings(3, 300))


def test_image_that_is_deleted_is_known_to_be_gone(one, api):
    assert not one.gone
    assert one.delete() is True
    assert one.gone
    api.delete.assert_called_once_with('context', 'image')


def test_image_that_is_not_shown_is_not_known_to_be_gone(one, api):
    api.delete.side_effect = nova_exception.ImageNotFound(image_id='image')
    assert one.delete() is False
    assert one.discard() is True
    assert not one.gone


@pytest.mark.parametrize('error', (
    nova_exception.GlanceConnectionFailed(server='g', reason='away'),
    ZeroDivisionError()))
def test_image_that_cannot_be_deleted_is_left_to_a_recovery(error, one, api,
                                                            caplog):
    api.delete.side_effect = error
    assert one.discard() is False
    assert not one.gone
    assert 'Cannot delete image image now' in caplog.text
    with pytest.raises(type(error)):
        one.delete()


def test_what_is_gone_stays_gone(one, api):
    one.delete()
    api.delete.side_effect = nova_exception.ImageNotFound(image_id='image')
    assert one.discard() is True
    assert one.gone


@pytest.mark.parametrize('asked, least, most', (
    ('', 1, 1), ('0', 1, 1), ('-5', 1, 1), ('7', 7, 7), ('3600', 60, 60),
    ('9' * 5000, 1, 60), ('soon', 1, 1), ('1.5', 1, 1), ('\u00b2', 1, 1),
    ('Thu, 01 Jan 1970 00:00:00 -0000', 1, 1)))
def test_pause_that_is_asked_for_has_bounds(asked, least, most):
    assert least <= image._pause(asked) <= most


@pytest.mark.parametrize('seconds, least, most', (
    (-100, 1, 1), (30, 25, 31), (7200, 60, 60)))
def test_pause_until_a_date_has_bounds(seconds, least, most):
    date = email.utils.formatdate(time.time() + seconds, usegmt=True)
    assert least <= image._pause(date) <= most

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

"""The image in Glance: describe, upload, verify or delete it."""

from collections.abc import Callable
import dataclasses
import email.utils
import itertools
import json
import math
import re
import time
from typing import Any

from glanceclient import exc as glance_exc
from keystoneauth1 import adapter
from keystoneauth1 import exceptions as ksa_exc
from nova import exception as nova_exception
from nova.image import glance
from oslo_log import log as logging
from oslo_utils import timeutils

from nova_snapdriver import exception
from nova_snapdriver import metrics
from nova_snapdriver.transfer import body as image_body
from nova_snapdriver.transfer import connections
from nova_snapdriver.transfer import description
from nova_snapdriver.transfer import destination
from nova_snapdriver.transfer import safety
from nova_snapdriver.transfer import verify as snap_verify

LOG = logging.getLogger(__name__)

_RETRY_PAUSE_SECONDS = 1

# The most that a Retry-After is honoured with: the disk is captured meanwhile.
_MAX_PAUSE_SECONDS = 60

# Glance notices a broken upload when its web server does (uWSGI and its
# proxies take seconds to a minute), and then sets the image back to queued.
_SETTLE_SECONDS = 120

# How long Glance may store an image that it has received in whole. A store of
# objects copies it once more at the end.
_COMMIT_SECONDS = 3600

# How long the database of Glance may show an image as it was before.
_LAG_SECONDS = 10

# Time-out of the question whether the image exists: Glance may be stuck.
_ASK_SECONDS = 3

_MAX_MESSAGE = 300


@dataclasses.dataclass(frozen=True)
class Settings:
    """How to upload.

    :param retries: [glance] num_retries
    :param stall_timeout: [snapdriver] upload_stall_timeout, seconds
    :param meter: where attempts that are made again are counted
    """

    retries: int
    stall_timeout: int
    meter: metrics.Meter = dataclasses.field(default_factory=metrics.Meter)


class _Refused(Exception):
    """Glance answered an upload with an error.

    :param pause: seconds until another attempt makes sense
    """

    def __init__(self, status: int, message: str, pause: int) -> None:
        super().__init__('Glance answered %d: %s' % (status, message))
        self.status = status
        self.transient = status in _TRANSIENT_STATUS
        self.pause = pause


# Worth another attempt: there is no whole answer, or one that says "later".
_TRANSIENT_STATUS = frozenset((408, 429, 502, 503, 504))
_NOVA_ERRORS: dict[int, type[Exception]] = {
    401: nova_exception.ImageNotAuthorized,
    403: nova_exception.ImageNotAuthorized,
    404: nova_exception.ImageNotFound,
    410: nova_exception.ImageNotFound,
    413: nova_exception.ImageQuotaExceeded,
}
_TRANSIENT = (ksa_exc.ConnectionError, glance_exc.CommunicationError,
              glance_exc.InvalidEndpoint, glance_exc.HTTPServiceUnavailable)


class Image(destination.Destination):
    """The image that Nova's API made for a snapshot, still without data.

    :param context: the user's request context
    :param api: Nova's :class:`nova.image.glance.API`
    """

    def __init__(self, context: Any, image_id: str, api: Any,
                 settings: Settings) -> None:
        self._context = context
        self._api = api
        self._settings = settings
        self._connections = connections.Connections()
        self._cancelled = False
        self.id = image_id
        #: Glance has deleted it for us.
        self.gone = False
        #: Name of the store that takes it; None for Glance's default.
        self.store: str | None = None
        # As Glance has shown the image when it was described.
        self._known: dict[str, Any] | None = None

    def describe_first(self, metadata: dict[str, Any]) -> None:
        """As :meth:`describe`, in one request, before the disk is captured.

        So that no captured disk waits for what does not depend on that: Glance
        takes 20 ms for each attribute.
        """
        def attempt(server: str) -> None:
            try:
                self._change(server, metadata, self._known or {})
            except _Refused as ex:
                if ex.status != 403:
                    raise
                # What is protected may have its value already.
                self._change(server, metadata, self._look(server))

        try:
            self._retrying(attempt)
        finally:
            self.close()                # another thread goes on

    def describe(self, metadata: dict[str, Any]) -> None:
        """Set metadata; attributes that are not among it stay as they are.

        Only what changes. Without the properties of this driver where Glance
        does not take them.

        :param metadata: attributes and, as ``properties``, more of them
        :raises: as :meth:`upload` does
        """
        def attempt(server: str) -> None:
            # Not twice: after a failure, nobody knows what is left to remove.
            known, self._known = self._known or self._look(server), None
            try:
                self._change(server, metadata, known)
            except _Refused as ex:
                plain = description.unlabelled(metadata)
                if (ex.status not in description.LABEL_REFUSALS or
                        plain == metadata):
                    raise
                self._change(server, plain, known)
                LOG.warning('Image %(image)s will not say how it was made, '
                            'see [snapdriver] snapdriver_properties: '
                            '%(error)s', {'image': self.id, 'error': ex})

        self._retrying(attempt)

    def _look(self, server: str) -> dict[str, Any]:
        return description.read(
            self._request(server, 'GET', '/v2/images/%s' % self.id))

    def _change(self, server: str, metadata: dict[str, Any],
                known: dict[str, Any]) -> None:
        changes = description.changes(metadata, known)
        if changes:
            self._known = description.read(self._request(
                server, 'PATCH', '/v2/images/%s' % self.id,
                json.dumps(changes),
                {'Content-Type': description.JSON_PATCH}))

    def remove_labels(self) -> None:
        """Remove the properties of this driver that another image had.

        For a snapshot by Nova's own driver. It goes on if Glance refuses.
        """
        try:
            self.describe({})
        except Exception as ex:
            LOG.warning('Image %(image)s may say how another one was made: '
                        '%(error)s', {'image': self.id, 'error': ex})
        finally:
            self.close()

    def upload(self, body: image_body.ImageBody) -> None:
        """Upload the image, again from its first byte if an attempt fails.

        With Content-Length, and so not by glanceclient's own upload(), which
        sends chunks: a server cannot tell a chunked body that ends early from
        a whole one.

        :raises nova.exception.ImageNotFound: the image was deleted
        :raises nova.exception.ImageNotAuthorized: Glance refuses the token
        :raises nova.exception.ImageQuotaExceeded: no room for it
        :raises ImageRefused: Glance would refuse it, and got nothing
        :raises UploadFailed: anything else
        :raises StreamFailed: the disk cannot be read
        """
        def attempt(server: str) -> None:
            body.prepare()
            if body.image_format == 'raw':
                safety.check_raw(body.head(safety.SECTOR_BYTES))
            headers = {'Content-Type': 'application/octet-stream',
                       'x-openstack-image-size': str(len(body))}
            if self.store is not None:
                headers['x-image-meta-store'] = self.store
            try:
                self._request(server, 'PUT', '/v2/images/%s/file' % self.id,
                              body, headers)
            except _Refused as ex:
                # In the middle: uWSGI gives up a body that pauses, after 4 s
                # by default, or the store had a hiccup.
                ex.transient |= ex.status == 500 and not body.whole
                raise

        self._retrying(
            attempt,
            # If Glance took all of it and only its answer was lost, the
            # verification decides.
            lambda server: self._settled(server, body.whole) == 'active')

    def cancel(self) -> None:
        """Make the upload fail, from another thread, and start no other.

        The image can still be looked at and discarded.
        """
        self._cancelled = True
        self._connections.cut()

    def close(self) -> None:
        """Close the connections of :meth:`describe` and :meth:`upload`."""
        self._connections.close()

    def deleted(self) -> bool:
        """Whether the image was deleted.

        :raises Exception: Glance does not say, or not within 3 s
        """
        server = next(glance.get_api_servers(self._context))
        http = self._client(server).http_client
        response = _adapter(http, http.session).get(
            '/v2/images/%s' % self.id, raise_exc=False, timeout=_ASK_SECONDS)
        return response.status_code in (404, 410)

    def refer(self, location: str, metadata: dict[str, Any]) -> None:
        """Set the location of data that is in the store, and wait for active.

        Nova's image API knows both of Glance's location APIs; the newer one
        answers before it is done.

        :param location: URL of the data
        :raises DirectRefused: Glance refuses; the image is queued as before
        :raises nova.exception.ImageNotFound: the image was deleted
        :raises UploadFailed: the image is neither active nor queued
        """
        refusal = 'it set the image back to queued'
        try:
            self.describe(metadata)
            self._api.update(self._context, self.id, {'location': location},
                             purge_props=False)
        except nova_exception.ImageNotFound:
            raise
        except Exception as ex:
            # It is of many classes, Nova's and glanceclient's.
            refusal = str(ex) or repr(ex)
        finally:
            self.close()
        status = self._located()
        if status == 'queued':
            raise exception.DirectRefused('Glance: %s' % refusal)
        if status != 'active':
            raise exception.UploadFailed(
                reason='the image is %s: %s' % (status, refusal))

    def _located(self) -> str:
        """The status of the image once Glance has processed the location."""
        deadline = timeutils.StopWatch(_SETTLE_SECONDS).start()
        while True:
            found = self.stored()
            busy = (found['status'] == 'importing' or
                    (found['status'] == 'queued' and
                     found['properties'].get('os_glance_import_task')))
            if not busy or deadline.expired():
                return 'busy' if busy else str(found['status'])
            time.sleep(_RETRY_PAUSE_SECONDS)

    def _retrying(self, attempt: Callable[[str], None],
                  done: Callable[[str], bool] = lambda server: False) -> None:
        """Retry up to num_retries times, unless Glance refuses for good.

        :param attempt: called with the server to send to
        :param done: asked after a failed attempt whether it worked after all
        """
        servers = glance.get_api_servers(self._context)
        failed = 0                      # an image that outgrew is no failure
        for number in itertools.count():
            server = next(servers)
            try:
                return attempt(server)
            except (_Refused, exception.Outgrown, *_TRANSIENT) as ex:
                self._log_failure(ex, failed, server)
                failed += not isinstance(ex, exception.Outgrown)
                if _is_final(ex, number):
                    raise self._translated(ex) from ex
                # Asked after the last attempt, too: its answer may be lost.
                if not self._cancelled and done(server):
                    return None
                if self._cancelled or failed > self._settings.retries:
                    raise self._translated(ex) from ex
                self._settings.meter.retries += 1
                pause = getattr(ex, 'pause', _RETRY_PAUSE_SECONDS)
            self._rest(pause)

    def _rest(self, seconds: int) -> None:
        for _ in range(seconds):
            if not self._cancelled:
                time.sleep(1)

    def _log_failure(self, error: Exception, attempt: int,
                     server: str) -> None:
        LOG.warning('Attempt %(attempt)d of %(all)d to send image '
                    '%(image)s to %(server)s failed: %(error)s',
                    {'attempt': attempt + 1, 'image': self.id,
                     'all': 1 + self._settings.retries, 'server': server,
                     'error': error})

    def _request(self, server: str, method: str, url: str,
                 data: object = None,
                 headers: dict[str, str] | None = None) -> Any:
        """One attempt, as glanceclient would make it."""
        if self._cancelled:
            raise exception.UploadFailed(reason='it was cancelled')
        http = self._client(server).http_client
        response = _adapter(
            http, self._connections.session(like=http.session)).request(
            url, method, data=data, raise_exc=False,
            headers=headers or {}, timeout=(self._settings.stall_timeout,) * 2)
        if not response.ok:
            raise _Refused(response.status_code, _message(response.text),
                           _pause(response.headers.get('Retry-After', '')))
        return response

    def _client(self, server: str) -> Any:
        return glance.GlanceClientWrapper(self._context, server).client

    def _settled(self, server: str, whole: bool) -> str:
        """Wait until Glance has noticed that an upload broke off.

        :param whole: all of the image was sent: Glance may still store it,
            although its gateway did not wait for that
        :returns: the status of the image, queued or active as a rule
        :raises nova.exception.ImageNotFound: the image was deleted
        """
        settle = timeutils.StopWatch(_SETTLE_SECONDS).start()
        commit = timeutils.StopWatch(_COMMIT_SECONDS).start()
        while True:
            status = self._status(server)
            limit = commit if whole and status == 'saving' else settle
            if (status in ('queued', 'active') or self._cancelled or
                    limit.expired()):
                return status
            time.sleep(_RETRY_PAUSE_SECONDS)

    def _status(self, server: str) -> str:
        try:
            return str(self._client(server).images.get(self.id)['status'])
        except glance_exc.HTTPNotFound:
            raise nova_exception.ImageNotFound(image_id=self.id)
        except (glance_exc.HTTPException, *_TRANSIENT) as ex:
            LOG.debug('Cannot see image %s yet: %s', self.id, ex)
            return 'unknown'

    def stored(self) -> dict[str, Any]:
        """The image as Glance has it.

        :raises nova.exception.ImageNotFound: it was deleted
        """
        found: dict[str, Any] = self._api.get(self._context, self.id)
        return found

    def verify(self, sent: snap_verify.Sent, hashes: bool) -> None:
        """Compare what Glance has with what was sent.

        :param hashes: compare the hashes too, not just status and size
        :raises VerifyFailed: they differ
        :raises nova.exception.ImageNotFound: the image was deleted
        """
        snap_verify.verify(self._stored_active(), sent, hashes)

    def _stored_active(self) -> dict[str, Any]:
        """The image as Glance has it, once it is active.

        Or as it is after some seconds: a read just after the upload may be
        answered by a node of the database that lags.
        """
        lag = timeutils.StopWatch(_LAG_SECONDS).start()
        while True:
            found = self.stored()
            if (found.get('status') == 'active' or self._cancelled or
                    lag.expired()):
                return found
            time.sleep(_RETRY_PAUSE_SECONDS)

    def delete(self) -> bool:
        """Delete the image.

        :returns: whether Glance did; not if it shows no such image, which
            does not mean that there is none
        :raises Exception: Glance did not answer, or refused
        """
        try:
            self._api.delete(self._context, self.id)
        except nova_exception.ImageNotFound:
            return False
        self.gone = True
        return True

    def discard(self) -> bool:
        """Delete the image if it is there.

        :returns: whether nothing of it is to be seen; if not, the log says why
        """
        try:
            self.delete()
        except Exception as ex:
            LOG.error('Cannot delete image %(image)s now: %(error)s',
                      {'image': self.id, 'error': ex})
            return False
        return True

    def _translated(self, error: Exception) -> Exception:
        """Nova's exception for an error of Glance, or else UploadFailed."""
        known: Any = _NOVA_ERRORS.get(getattr(error, 'status', 0))
        if known is not None:
            translated: Exception = known(image_id=self.id)
            return translated
        return exception.UploadFailed(reason=error)


def _is_final(error: Exception, attempt: int) -> bool:
    """Whether another attempt cannot help.

    A conflict may be with an earlier attempt, of which Glance has more than
    it has said.
    """
    if not isinstance(error, _Refused):
        return False
    return not (error.transient or (error.status == 409 and attempt > 0))


def _adapter(http: Any, session: Any) -> adapter.Adapter:
    """An adapter with glanceclient's endpoint and token, on a session.

    :param http: the http_client of a glanceclient
    """
    return adapter.Adapter(
        session, auth=http.auth, service_type='image',
        endpoint_override=http.endpoint_override,
        global_request_id=http.global_request_id)


def _message(text: str) -> str:
    """The text of an error page, without its markup, up to 300 characters."""
    words = re.sub(r'<[^>]*>', ' ', text).split()
    return ' '.join(words)[:_MAX_MESSAGE] or 'no reason given'


def _pause(asked: str) -> int:
    """Seconds until another attempt, by a Retry-After; within bounds.

    :param asked: seconds or a date, as HTTP has them; or anything else
    """
    try:
        seconds = int(asked) if asked.isdigit() else _seconds_until(asked)
    except ValueError:
        return _RETRY_PAUSE_SECONDS
    return min(max(seconds, _RETRY_PAUSE_SECONDS), _MAX_PAUSE_SECONDS)


def _seconds_until(date: str) -> int:
    """:raises ValueError: it is no date"""
    when = email.utils.parsedate_to_datetime(date)
    now = timeutils.utcnow(with_timezone=when.tzinfo is not None)
    return math.ceil(float((when - now).total_seconds()))

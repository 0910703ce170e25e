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

"""Send an image to Glance with the credentials of the environment.

As OpenStack's clients have them: OS_CLOUD and clouds.yaml, or OS_AUTH_URL and
its neighbours. Neither nova.conf nor a request of Nova's is needed.
"""

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
from typing import Any
import uuid

from keystoneauth1 import adapter
from keystoneauth1 import exceptions as ksa_exc
import openstack
from openstack import exceptions as sdk_exc

from nova_snapdriver import exception
from nova_snapdriver.transfer import body as image_body
from nova_snapdriver.transfer import connections
from nova_snapdriver.transfer import description
from nova_snapdriver.transfer import destination
from nova_snapdriver.transfer import safety
from nova_snapdriver.transfer import verify as snap_verify

#: For :meth:`nova_snapdriver.journal.Record.note_target`.
TARGET = 'glance'

_NO_DATA = ('queued', 'saving')
# During which Glance takes no data, or does not answer.
_STALL_SECONDS = 300
_ERRORS = (sdk_exc.SDKException, ksa_exc.ClientException)


class Image(destination.Destination):
    """An image to be in Glance.

    :param name: of the image
    :param image_format: raw or qcow2
    :raises UploadFailed: there are no credentials, or they are refused
    """

    target = TARGET

    def __init__(self, name: str, image_format: str) -> None:
        self._connections = connections.Connections()
        self._glance = _glance(self._connections)
        self._name, self._format = name, image_format
        #: Chosen here, so that the journal has it before Glance does.
        self.image_id = str(uuid.uuid4())
        self.id = 'image %s' % self.image_id

    def make(self) -> None:
        """Create it, without data.

        :raises UploadFailed: Glance refuses
        """
        self._ask('POST', '/v2/images', json={
            'id': self.image_id, 'name': self._name,
            'disk_format': self._format, 'container_format': 'bare'})

    def describe(self, metadata: dict[str, Any]) -> None:
        """Set properties of the image.

        :raises UploadFailed: Glance refuses
        """
        self._ask('PATCH', self._url, json=description.changes(metadata, {}),
                  headers={'Content-Type': description.JSON_PATCH})

    def upload(self, body: image_body.ImageBody) -> None:
        """Upload the image; from its first byte again only if it outgrows.

        :raises ImageRefused: Glance would refuse it, and got nothing
        :raises UploadFailed: Glance did not take it
        :raises StreamFailed: the disk cannot be read
        """
        while True:
            body.prepare()
            if body.image_format == 'raw':
                safety.check_raw(body.head(safety.SECTOR_BYTES))
            try:
                self._ask('PUT', self._url + '/file', data=body, headers={
                    'Content-Type': 'application/octet-stream',
                    'x-openstack-image-size': str(len(body))})
                return
            except exception.Outgrown:
                continue                # body says when it is enough

    def verify(self, sent: snap_verify.Sent, hashes: bool) -> None:
        """Compare what Glance has with what was sent.

        :raises VerifyFailed: they differ
        """
        snap_verify.verify(self._ask('GET', self._url).json(), sent, hashes)

    def publish(self) -> None:
        """It is active already."""

    def discard(self) -> None:
        """Delete the image, if it is there.

        :raises UploadFailed: Glance does not
        """
        self._connections.close()
        _delete(_glance(connections.Connections()), self.image_id)

    def cancel(self) -> None:
        """Make the upload fail, from another thread."""
        self._connections.cut()

    def close(self) -> None:
        """Close the connections."""
        self._connections.close()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Close the connections at the end of the block."""
        with contextlib.closing(self):
            yield

    @property
    def place(self) -> dict[str, str]:
        """What a result says of it."""
        return {'image': self.image_id, 'name': self._name}

    @property
    def _url(self) -> str:
        return '/v2/images/%s' % self.image_id

    def _ask(self, method: str, url: str, **options: Any) -> Any:
        return _answer(self._glance, method, url, **options)


def delete_unfinished(image_id: str,
                      arrived: Callable[[dict[str, Any]], bool]) -> bool:
    """Delete an image after a crash, unless it holds all that was sent.

    :param arrived: whether it does
    :returns: whether it was deleted
    :raises UploadFailed: it may be left
    """
    try:
        glance = _glance(connections.Connections())
        response = _request(glance, 'GET', '/v2/images/%s' % image_id)
        if response.status_code == 404:
            return False
        stored = _checked(response).json()
        if stored['status'] not in _NO_DATA and arrived(stored):
            return False
        _delete(glance, image_id)
    except exception.UploadFailed as ex:
        raise exception.UploadFailed(
            reason='image %s may be left: %s. Run this again with the '
                   'credentials of its owner, or delete it by hand' %
                   (image_id, ex.kwargs['reason'])) from ex
    return True


def _glance(kept: connections.Connections) -> adapter.Adapter:
    """Glance's API, on connections that can be cut.

    :raises UploadFailed: there are no credentials, or they are refused
    """
    with _translated():
        cloud = openstack.connect()
        image = cloud.config.get_session_client('image')
        endpoint = image.get_endpoint()
    if not endpoint:
        raise exception.UploadFailed(reason='the cloud has no Glance')
    session = cloud.session
    return adapter.Adapter(
        kept.session(session), auth=session.auth, service_type='image',
        endpoint_override=endpoint.rstrip('/').removesuffix('/v2'))


def _delete(glance: adapter.Adapter, image_id: str) -> None:
    response = _request(glance, 'DELETE', '/v2/images/%s' % image_id)
    if response.status_code != 404:
        _checked(response)


def _answer(glance: adapter.Adapter, method: str, url: str,
            **options: Any) -> Any:
    return _checked(_request(glance, method, url, **options))


def _request(glance: adapter.Adapter, method: str, url: str,
             **options: Any) -> Any:
    """:raises UploadFailed: there is no answer"""
    with _translated():
        return glance.request(url, method, raise_exc=False,
                              timeout=_STALL_SECONDS, **options)


def _checked(response: Any) -> Any:
    """:raises UploadFailed: it is an error"""
    if response.status_code >= 400:
        raise exception.UploadFailed(
            reason='Glance answers %d to %s: %s' % (
                response.status_code, response.request.method,
                response.text[:300]))
    return response


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except _ERRORS as ex:
        raise exception.UploadFailed(reason='the cloud: %s' % ex) from ex

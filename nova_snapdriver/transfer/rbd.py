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

"""The destination in Ceph: the pool of Glance's store.

The stream process makes the image there, as Glance's store would, and Glance
is told where it is. Nothing else is sent to Glance.
"""

import re
from typing import Any

from nova.storage import rbd_utils

from nova_snapdriver.capture import direct
from nova_snapdriver.capture import rbd
from nova_snapdriver import exception
from nova_snapdriver import faultpoint
from nova_snapdriver.stream import ceph
from nova_snapdriver.transfer import body as image_body
from nova_snapdriver.transfer import destination
from nova_snapdriver.transfer import image as snap_image
from nova_snapdriver.transfer import process
from nova_snapdriver.transfer import verify as snap_verify

_LOCATION = re.compile('rbd://(?P<cluster>[^/]+)/(?P<pool>[^/]+)/[^/]+/[^/]+')


class _Driver(rbd_utils.RBDDriver):
    """Nova's, with time limits: by default, librados waits for ever.

    :param seconds: for one operation
    """

    def __init__(self, pool: str, user: str | None, ceph_conf: str | None,
                 seconds: int) -> None:
        super().__init__(pool, user, ceph_conf)
        self._seconds = seconds

    def _connect_to_rados(self, pool: str | None = None) -> tuple[Any, Any]:
        rados: Any = rbd_utils.rados
        client = rados.Rados(rados_id=self.rbd_user, conffile=self.ceph_conf)
        try:
            ceph.limit(client, self._seconds,
                       max(self.rbd_connect_timeout, 1))
            client.connect()
            return client, client.open_ioctx(pool or self.pool)
        except rados.Error:
            client.shutdown()
            raise


def driver(conf: Any, pool: str) -> Any:
    """Nova's :class:`nova.storage.rbd_utils.RBDDriver`, by our options.

    :raises RuntimeError: this host has no librbd for Python
    """
    group = conf.snapdriver
    return _Driver(pool, group.rbd_user or None, group.rbd_ceph_conf or None,
                   group.upload_stall_timeout)


def locate(conf: Any, context: Any, api: Any, base_image: str,
           image_id: str) -> process.Target:
    """Where the image is to be; makes nothing.

    :param api: Nova's :class:`nova.image.glance.API`
    :param base_image: the image that the server was made from
    :raises DirectRefused: Ceph does not answer, or the pool is not known
    """
    try:
        pool = conf.snapdriver.rbd_pool
        expected = ''
        if not pool:
            expected, pool = _place(api.get(context, base_image,
                                            include_locations=True))
        found = driver(conf, pool)
        fsid = str(found.get_fsid())
    except Exception as ex:
        # The errors of librbd and librados have many classes.
        raise exception.DirectRefused(reason=str(ex) or repr(ex)) from ex
    if expected not in ('', fsid):
        raise exception.DirectRefused(
            reason='the image that the server was made from is in the Ceph '
                   'cluster %s, and this host reaches %s' % (expected, fsid))
    return process.Target(fsid, pool, image_id, found.rbd_user or '',
                          found.ceph_conf or '',
                          conf.snapdriver.upload_stall_timeout,
                          conf.snapdriver.verify)


def _place(image: dict[str, Any]) -> tuple[str, str]:
    """The cluster and the pool that an image is in.

    :raises DirectRefused: it is not in Ceph, or not to be seen
    """
    for location in image.get('locations') or ():
        match = _LOCATION.fullmatch(location['url'])
        if match:
            return match['cluster'], match['pool']
    raise exception.DirectRefused(
        reason='the image that the server was made from is not in Ceph, or '
               'Glance does not show where it is: [snapdriver] rbd_pool can '
               'name the pool')


def url(target: process.Target) -> str:
    """The URL of the image's snapshot, as Glance writes it."""
    return rbd.url(target.fsid, target.pool, target.image, ceph.SNAPSHOT)


def remove(conf: Any, image: str) -> list[str]:
    """Remove an image, complete or not.

    :param image: URL of its snapshot
    :returns: what was removed, in words
    :raises nova.exception.ImageUnacceptable: it is in another Ceph cluster
    """
    match = _LOCATION.fullmatch(image)
    assert match is not None            # it is what url() gives
    return direct.remove_clone(driver(conf, match['pool']), image)


class StoredImage(destination.Destination):
    """An image that is made in Ceph, and that Glance is told of.

    :param image: without data so far
    """

    def __init__(self, image: snap_image.Image,
                 target: process.Target) -> None:
        self._image = image
        self._target = target
        self._metadata: dict[str, Any] = {}
        self.id = image.id
        #: Glance may have been told where the data are.
        self.referred = False

    def describe(self, metadata: dict[str, Any]) -> None:
        """Keep the metadata, which are set with the location."""
        self._metadata = metadata

    def upload(self, body: image_body.ImageBody) -> None:
        """Have the data written and verified, and then tell Glance.

        :raises DirectRefused: Ceph or Glance refuses; Glance's image has no
            data
        :raises ImageRefused: Glance would refuse it
        :raises VerifyFailed: Ceph gives something else than was written
        :raises nova.exception.ImageNotFound: the image was deleted
        """
        body.store()
        faultpoint.reach('rbd.written')
        self.referred = True
        self._image.refer(url(self._target), self._metadata)
        faultpoint.reach('rbd.referred')

    def verify(self, sent: snap_verify.Sent, hashes: bool) -> None:
        """Compare the size: the data were, before Glance was told of them."""
        self._image.verify(sent, hashes=False)

    def cancel(self) -> None:
        """Nothing to do: the stream process is ended."""

    def close(self) -> None:
        """Close the image's connections to Glance."""
        self._image.close()

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

"""Make an RBD snapshot of a disk in Ceph, to read it at one point in time.

By Nova's own image backend and its driver. QEMU does not lock images in Ceph,
so a disk there is read from an RBD snapshot.
"""

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import dataclasses
import functools
from typing import Any

from oslo_log import log as logging
from oslo_utils import uuidutils

from nova_snapdriver import exception
from nova_snapdriver import imagebackend

LOG = logging.getLogger(__name__)


class Unusable(Exception):
    """Nova's image backend cannot reach the disk."""


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """The RBD snapshot to make of a disk.

    :param backend: Nova's image backend of the disk,
        :class:`nova.virt.libvirt.imagebackend.Rbd`
    :param fsid: ID of the Ceph cluster
    :param name: a random one
    """

    backend: Any
    fsid: str
    name: str = dataclasses.field(
        default_factory=functools.partial(uuidutils.generate_uuid, False))

    @property
    def url(self) -> str:
        return url(self.fsid, self.backend.driver.pool, self.backend.rbd_name,
                   self.name)

    def another(self) -> 'Snapshot':
        """A snapshot with a new name, as this one may still exist."""
        return Snapshot(self.backend, self.fsid)

    def of(self, disk: imagebackend.Rbd) -> imagebackend.Rbd:
        """The snapshot as a source, with Nova's own settings for librbd."""
        driver = self.backend.driver
        return dataclasses.replace(disk, snapshot=self.name,
                                   conf=driver.ceph_conf or None,
                                   user=driver.rbd_user or None)


def locate(backends: Any, instance: Any,
           disk: imagebackend.Rbd) -> Snapshot:
    """Check whether a snapshot of a disk can be made; makes none.

    :param backends: Nova's :class:`nova.virt.libvirt.imagebackend.Backend`
    :raises Unusable: the disk is in another pool, or Ceph does not answer
    """
    try:
        backend = backends.by_libvirt_path(instance, disk.path,
                                           image_type='rbd')
        pool, fsid = backend.driver.pool, backend.driver.get_fsid()
    except Exception as ex:
        # The errors of librbd and librados have many classes, which cannot be
        # imported on hosts without these libraries.
        raise Unusable(str(ex) or repr(ex)) from ex
    if pool != disk.pool:
        raise Unusable('the disk is in the pool %s, which is not [libvirt] '
                       'images_rbd_pool' % disk.pool)
    return Snapshot(backend, fsid)


def url(*parts: str) -> str:
    """The URL, as Glance writes it, of cluster, pool, image and snapshot."""
    return 'rbd://' + '/'.join(parts)


@contextlib.contextmanager
def held(snapshot: Snapshot,
         on_leftover: Callable[[], None]) -> Iterator[None]:
    """Make a snapshot, and remove it at the end.

    :param on_leftover: called when it could not be removed
    :raises CaptureFailed: Ceph refused to make it
    """
    backend = snapshot.backend
    try:
        try:
            backend.driver.create_snap(backend.rbd_name, snapshot.name)
        except Exception as ex:
            raise exception.CaptureFailed(
                reason='cannot make an RBD snapshot of the disk: %s' %
                       (str(ex) or repr(ex))) from ex
        yield
    finally:
        _remove(snapshot, on_leftover)


def _remove(snapshot: Snapshot, on_leftover: Callable[[], None]) -> None:
    try:
        remove(snapshot.backend.driver, snapshot.url)
    except Exception as ex:
        # An exception of the caller is more important.
        LOG.error('Cannot remove the RBD snapshot %(url)s: %(error)s',
                  {'url': snapshot.url, 'error': ex})
        on_leftover()


def remove(driver: Any, snapshot: str) -> list[str]:
    """Remove an RBD snapshot, protected or not, if it exists.

    :param driver: Nova's :class:`nova.storage.rbd_utils.RBDDriver`
    :param snapshot: its URL
    :returns: what was removed, in words
    """
    _, pool, image, name = driver.parse_url(snapshot)
    if not driver.exists(image, pool=pool, snapshot=name):
        return []
    driver.remove_snap(image, name, pool=pool, force=True)
    return ['removed %s' % snapshot]

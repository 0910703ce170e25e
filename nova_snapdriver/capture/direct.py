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

"""The direct path: Ceph copies the disk into Glance's pool.

The copying is Nova's own (its RBD image backend): snapshot the disk, clone
it into Glance's pool, flatten the clone. Ours is to freeze the guest for the
first of these and for no longer, and to leave nothing behind.
"""

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import dataclasses
import datetime
from typing import Any

from nova import exception as nova_exception
from oslo_log import log as logging
from oslo_utils import timeutils

from nova_snapdriver.capture import export
from nova_snapdriver.capture import quiesce
from nova_snapdriver.capture import rbd
from nova_snapdriver import exception
from nova_snapdriver import faultpoint
from nova_snapdriver import guest as snap_guest

LOG = logging.getLogger(__name__)

# What another path would not help with.
_FINAL = (exception.SnapdriverError, nova_exception.ImageNotFound,
          nova_exception.InstanceNotFound)


@dataclasses.dataclass(frozen=True)
class Route:
    """From where to where Ceph copies.

    :param snapshot: of the disk, from which the copy is made
    :param base_image: the image that the server was made from
    :param clone: the URL of the snapshot of the copy in Glance's pool
    """

    snapshot: rbd.Snapshot
    base_image: str
    clone: str


@dataclasses.dataclass(frozen=True)
class Copied:
    """A copy in Glance's pool, of which Glance has to be told.

    See :class:`nova_snapdriver.capture.export.Capture`.
    """

    location: str
    consistency: export.Consistency
    captured_at: datetime.datetime
    freeze_seconds: float


def route(snapshot: rbd.Snapshot, context: Any, base_image: str,
          image_id: str) -> Route:
    """Look whether Ceph can copy; touches neither the disk nor the guest.

    :param snapshot: of the disk, as it would be
    :param base_image: the image that the server was made from
    :raises DirectRefused: Glance has its images elsewhere, or Ceph does not
        answer
    """
    try:
        # Nova cannot ask Glance for its pool, and takes that of the image
        # that the server was made from.
        pool = snapshot.backend._get_parent_pool(context, base_image,
                                                 snapshot.fsid)
    except Exception as ex:
        raise exception.DirectRefused(str(ex) or repr(ex)) from ex
    return Route(snapshot, base_image,
                 rbd.url(snapshot.fsid, pool, image_id, 'snap'))


class _Freezing:
    """Nova's RBDDriver; a guest is frozen while its disk is snapshotted.

    :raises QuiesceFailed: and the like, from :func:`quiesce.frozen`
    """

    def __init__(self, driver: Any, volume: str, guest: snap_guest.Guest,
                 settings: quiesce.Settings) -> None:
        self._driver = driver
        self._volume = volume
        self._guest = guest
        self._settings = settings
        self.consistency = export.Consistency.CRASH
        self.captured_at = datetime.datetime.now(datetime.UTC)
        self.freeze_seconds = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._driver, name)

    def create_snap(self, volume: str, name: str, pool: str | None = None,
                    protect: bool = False) -> None:
        if volume != self._volume or pool is not None:
            self._driver.create_snap(volume, name, pool=pool, protect=protect)
            return
        watch = timeutils.StopWatch().start()
        with quiesce.frozen(self._guest, self._settings) as consistency:
            self._driver.create_snap(volume, name, protect=protect)
            faultpoint.reach('direct.held')
            self.captured_at = datetime.datetime.now(datetime.UTC)
        self.freeze_seconds = watch.elapsed()
        self.consistency = consistency


def copy(way: Route, context: Any, image_id: str, guest: snap_guest.Guest,
         settings: quiesce.Settings, runs: bool) -> Copied:
    """Have Ceph copy the disk. Within :func:`removed_on_error`.

    :param runs: whether the guest is up, or its disk at rest
    :raises DirectRefused: Ceph does not; what it did is still to be removed
    :raises QuiesceFailed: the image requires it and the guest cannot
    """
    backend = way.snapshot.backend
    plain = backend.driver
    freezing = _Freezing(plain, backend.rbd_name, guest, settings)
    if runs:
        backend.driver = freezing
    try:
        location = str(backend.direct_snapshot(
            context, way.snapshot.name, 'raw', image_id, way.base_image))
    except _FINAL:
        raise
    except Exception as ex:
        raise exception.DirectRefused(str(ex) or repr(ex)) from ex
    finally:
        backend.driver = plain
    consistency = (freezing.consistency if runs
                   else export.Consistency.OFFLINE)
    return Copied(location, consistency, freezing.captured_at,
                  freezing.freeze_seconds)


@contextlib.contextmanager
def removed_on_error(way: Route, on_leftover: Callable[[], None]
                     ) -> Iterator[None]:
    """Remove all of a copy that does not become an image.

    :param on_leftover: called when something of it is left
    """
    try:
        yield
    except BaseException:
        try:
            remove(way.snapshot.backend.driver, way.snapshot.url, way.clone)
        except Exception as ex:
            LOG.error('Of the copy %(clone)s something is left: %(error)s',
                      {'clone': way.clone, 'error': ex})
            on_leftover()
        raise


def remove(driver: Any, snapshot: str, clone: str) -> list[str]:
    """Remove a copy, whole or not, and the snapshot it was made from.

    The copy first: while it is not flattened, Ceph keeps the snapshot.

    :param driver: Nova's :class:`nova.storage.rbd_utils.RBDDriver`
    :returns: what there was to remove, in words
    :raises nova.exception.ImageUnacceptable: a URL makes no sense
    """
    if driver.parse_url(clone)[0] != driver.get_fsid():
        raise nova_exception.ImageUnacceptable(
            image_id=clone, reason='it is in another Ceph cluster')
    done = rbd.remove(driver, clone)
    _, pool, image, _ = driver.parse_url(clone)
    if driver.exists(image, pool=pool):
        driver.destroy_volume(image, pool=pool)
        done.append('removed the copy %s/%s' % (pool, image))
    return done + rbd.remove(driver, snapshot)

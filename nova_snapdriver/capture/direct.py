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

Nova's own RBD image backend copies: it snapshots the disk, clones the snapshot
into Glance's pool, and flattens the clone. This module freezes the guest for
the snapshot alone, and removes what a failed copy leaves.
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
from nova_snapdriver import journal

LOG = logging.getLogger(__name__)

# Errors for which another path would not help.
_FINAL = (exception.SnapdriverError, nova_exception.ImageNotFound,
          nova_exception.InstanceNotFound)


@dataclasses.dataclass(frozen=True)
class Route:
    """What Ceph copies, and where to.

    :param snapshot: RBD snapshot of the disk, from which the copy is made
    :param base_image: the image that the server was created from
    :param clone: URL of the RBD snapshot of the copy in Glance's pool
    """

    snapshot: rbd.Snapshot
    base_image: str
    clone: str

    def undo(self) -> None:
        """Remove the copy, complete or not, and the snapshot."""
        remove(self.snapshot.backend.driver, self.snapshot.url, self.clone)

    def __str__(self) -> str:
        return 'the failed copy %s and the RBD snapshot %s' % (
            self.clone, self.snapshot.url)


@dataclasses.dataclass(frozen=True)
class Copied:
    """A copy in Glance's pool, to be registered as the image's location.

    :param location: its URL

    For the other fields, see :class:`nova_snapdriver.capture.export.Capture`.
    """

    location: str
    consistency: export.Consistency
    captured_at: datetime.datetime
    freeze_seconds: float


def route(snapshot: rbd.Snapshot, context: Any, base_image: str,
          image_id: str) -> Route:
    """Check whether Ceph can copy; touches neither the disk nor the guest.

    :param snapshot: the RBD snapshot that would be made of the disk
    :param base_image: the image that the server was created from
    :raises DirectRefused: Glance's images are not in this Ceph cluster, or
        Ceph does not answer
    """
    try:
        # Nova cannot ask Glance for its pool. It uses the pool of the image
        # that the server was created from.
        pool = snapshot.backend._get_parent_pool(context, base_image,
                                                 snapshot.fsid)
    except Exception as ex:
        raise exception.DirectRefused(str(ex) or repr(ex)) from ex
    return Route(snapshot, base_image,
                 rbd.url(snapshot.fsid, pool, image_id, 'snap'))


class _Freezing:
    """Nova's RBDDriver, with the guest frozen while its disk is snapshotted.

    ``create_snap()`` raises the errors of :func:`quiesce.frozen`, too.
    """

    def __init__(self, driver: Any, volume: str, guest: snap_guest.Guest,
                 settings: quiesce.Settings, notes: journal.Notes) -> None:
        self._driver = driver
        self._volume = volume
        self._guest = guest
        self._settings = settings
        self._notes = notes
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
        with quiesce.frozen(self._guest, self._settings,
                            self._notes) as quiesced:
            self._driver.create_snap(volume, name, protect=protect)
            faultpoint.reach('direct.held')
            self.captured_at = datetime.datetime.now(datetime.UTC)
        self.freeze_seconds = watch.elapsed()
        self.consistency = quiesced.consistency


def copy(way: Route, context: Any, image_id: str, guest: snap_guest.Guest,
         settings: quiesce.Settings, notes: journal.Notes,
         runs: bool) -> Copied:
    """Let Ceph copy the disk. To be called within :func:`removed_on_error`.

    :param runs: whether the guest is running
    :raises DirectRefused: Ceph failed; something may be left of the copy
    :raises QuiesceFailed: the image requires it, and the freeze failed, or the
        guest is suspended
    """
    backend = way.snapshot.backend
    plain = backend.driver
    freezing = _Freezing(plain, backend.rbd_name, guest, settings, notes)
    if runs:
        backend.driver = freezing
    else:
        quiesce.stopped(guest, settings)    # a refusal costs no copy
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
                   else quiesce.stopped(guest, settings))
    return Copied(location, consistency, freezing.captured_at,
                  freezing.freeze_seconds)


@contextlib.contextmanager
def removed_on_error(undo: Callable[[], object], what: str,
                     on_leftover: Callable[[], None],
                     is_unused: Callable[[], bool]) -> Iterator[None]:
    """Remove what is in Ceph if the block raises.

    :param undo: removes it
    :param what: is removed, in words
    :param on_leftover: called when something could not be removed
    :param is_unused: says for sure that no image refers to it
    """
    try:
        yield
    except BaseException as ex:
        refused = isinstance(ex, exception.DirectRefused)
        try:
            if refused or is_unused():
                undo()
            else:
                # It is Glance's: a recovery sees what has become of it.
                on_leftover()
        except Exception as error:
            LOG.error('Cannot remove %(what)s: %(error)s',
                      {'what': what, 'error': error})
            on_leftover()
        raise


def remove(driver: Any, snapshot: str, clone: str) -> None:
    """Remove a copy, complete or not, and the snapshot it was made from.

    The copy first: Ceph does not remove a snapshot with a clone that is not
    flattened. See :func:`remove_clone`.
    """
    remove_clone(driver, clone)
    rbd.remove(driver, snapshot)


def remove_clone(driver: Any, clone: str) -> list[str]:
    """Remove a copy, complete or not.

    :param driver: Nova's :class:`nova.storage.rbd_utils.RBDDriver`
    :param clone: URL of the RBD snapshot of the copy
    :returns: what was removed, in words
    :raises nova.exception.ImageUnacceptable: the URL is invalid, or of another
        Ceph cluster
    """
    if driver.parse_url(clone)[0] != driver.get_fsid():
        raise nova_exception.ImageUnacceptable(
            image_id=clone, reason='it is in another Ceph cluster')
    done = rbd.remove(driver, clone)
    _, pool, image, _ = driver.parse_url(clone)
    if driver.exists(image, pool=pool):
        driver.destroy_volume(image, pool=pool)
        done.append('removed the copy %s/%s' % (pool, image))
    return done

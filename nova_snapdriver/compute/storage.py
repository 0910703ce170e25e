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

"""Whether Glance and Ceph take images as nova.conf has it; changes nothing."""

from collections.abc import Iterator
import contextlib
from typing import Any

import nova.conf
from nova.image import glance
from nova.storage import rbd_utils
from oslo_log import log as logging
from oslo_utils import uuidutils

from nova_snapdriver.recovery import images
from nova_snapdriver.stream import ceph
from nova_snapdriver.transfer import hashes
from nova_snapdriver.transfer import rbd as snap_rbd
from nova_snapdriver.transfer import stores

LOG = logging.getLogger(__name__)
CONF = nova.conf.CONF

# A server that there is not.
_NOBODY = '00000000-0000-0000-0000-000000000000'
# Among them is one that was uploaded.
_IMAGES = 25

# Of a monitor or an OSD that is away.
_CEPH_SECONDS = 5
_CAPS = "mon 'profile rbd' osd 'profile rbd pool=%s'"


def glance_lacks() -> str | None:
    """What Glance says that does not fit nova.conf; none if all fits.

    :raises Exception: Glance does not answer, has no such store, or does not
        say which it has
    """
    images.unbegun(_NOBODY)
    context = images.service_context()
    wanted = CONF.snapdriver.store
    if wanted == stores.BASE:
        stores.writable(context)
    else:
        stores.choose(wanted, context, dict)
    return _unknown_hash(context) if CONF.snapdriver.verify else None


def _unknown_hash(context: Any) -> str | None:
    """Look at the newest images: Glance says nowhere else how it hashes.

    One whose data it has not seen, as Ceph has copied them, has no hash.
    """
    for image in glance.API().get_all(
            context, filters={'status': 'active'}, limit=_IMAGES):
        algorithm = image.get('os_hash_algo')
        if algorithm:
            return None if hashes.is_known(algorithm) else (
                'snapshots cannot be verified: image %s has the hash %s, '
                'which is not known here. Change hashing_algorithm in '
                'glance-api.conf, or set [snapdriver] verify = false' % (
                    image['id'], algorithm))
    return None


def ceph_lacks() -> str | None:
    """What users of Ceph may not do and should; none if nothing.

    :raises RuntimeError: this host has no librbd for Python
    """
    wrong = []
    if CONF.libvirt.images_type == 'rbd':
        nova = rbd_utils.RBDDriver()
        wrong += _lacking(nova, [nova.pool], "the servers' disks")
        wrong += _lacking(nova, _glance_pools(nova),
                          'where Ceph can copy disks to')
    if CONF.snapdriver.destination == 'rbd':
        ours = snap_rbd.driver(CONF, CONF.snapdriver.rbd_pool)
        pools = ([CONF.snapdriver.rbd_pool] if CONF.snapdriver.rbd_pool
                 else _glance_pools(ours))
        wrong += _lacking(ours, pools, 'where images are to be written')
    return '; '.join(wrong)


def _glance_pools(driver: Any) -> list[str]:
    """Pools of Glance's stores in a driver's cluster, where Glance tells."""
    try:
        found = glance.GlanceClientWrapper().call(
            images.service_context(), 2, 'get_stores_info_detail')['stores']
        with _connected(driver) as cluster:
            fsid = cluster.get_fsid()
    except Exception as ex:
        LOG.debug('It is not known which pools Glance uses: %s', ex)
        return []
    places = [store['properties'] for store in found
              if store.get('type') == 'rbd']
    return [place['pool'] for place in places
            if place.get('fsid') in (None, fsid)]


def _lacking(driver: Any, pools: list[str], why: str) -> list[str]:
    """What the user of a driver may not do in some pools, in words.

    :param driver: Nova's :class:`nova.storage.rbd_utils.RBDDriver`
    :param why: these pools
    """
    wrong = []
    for pool in pools:
        who = 'client.%s in the pool %s (%s)' % (
            driver.rbd_user or 'admin', pool, why)
        try:
            if not _may_write(driver, pool):
                wrong.append('%s lacks caps: it needs %s' %
                             (who, _CAPS % pool))
        except rbd_utils.rados.Error as ex:
            wrong.append('%s gets no answer: %s' % (who, ex))
    return wrong


def _may_write(driver: Any, pool: str) -> bool:
    """Ask by removing an object that there is not, and by a call on it."""
    rados, nothing = rbd_utils.rados, 'snapdriver-' + uuidutils.generate_uuid()
    with (_connected(driver) as cluster, cluster.open_ioctx(pool) as pool_io):
        for ask, *words in ((pool_io.stat,), (pool_io.remove_object,),
                            (pool_io.execute, 'rbd', 'get_id', b'')):
            try:
                ask(nothing, *words)
            except rados.ObjectNotFound:
                continue
            except (rados.PermissionError, rados.PermissionDeniedError):
                return False
    return True


@contextlib.contextmanager
def _connected(driver: Any) -> Iterator[Any]:
    """Nova's own connections wait for ever for an OSD that is away."""
    cluster = rbd_utils.rados.Rados(
        rados_id=driver.rbd_user or None, conffile=driver.ceph_conf)
    ceph.limit(cluster, _CEPH_SECONDS, _CEPH_SECONDS)
    try:
        cluster.connect()
        yield cluster
    finally:
        cluster.shutdown()

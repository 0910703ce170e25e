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

"""Look at an instance and its host, and plan the way of its snapshot.

The choice itself is :mod:`nova_snapdriver.plan`'s; here are its facts.
"""

import dataclasses
import functools
from typing import Any

import nova.conf
from nova import exception as nova_exception
from oslo_log import log as logging

from nova_snapdriver.capture import direct
from nova_snapdriver.capture import quiesce
from nova_snapdriver.capture import rbd
from nova_snapdriver import exception
from nova_snapdriver import guest as snap_guest
from nova_snapdriver import host as snap_host
from nova_snapdriver import imagebackend
from nova_snapdriver import journal
from nova_snapdriver import plan as snap_plan
from nova_snapdriver.transfer import process
from nova_snapdriver.transfer import rbd as snap_rbd
from nova_snapdriver.transfer import stores

LOG = logging.getLogger(__name__)
CONF = nova.conf.CONF


@dataclasses.dataclass(frozen=True)
class Way:
    """How a snapshot is taken."""

    plan: snap_plan.Plan
    guest: snap_guest.Guest
    disk: imagebackend.RootDisk | None
    image_format: str
    settings: quiesce.Settings
    snapshot: rbd.Snapshot | None = None
    route: direct.Route | None = None
    target: process.Target | None = None

    @property
    def written(self) -> str:
        """URL of the image that is written into Ceph; empty if none is."""
        return '' if self.target is None else snap_rbd.url(self.target)

    @property
    def planned(self) -> journal.Planned:
        """What it makes, as the journal has it."""
        path, snapshots, clone = str(self.plan.path), [], ''
        if self.plan.path is snap_plan.Path.DIRECT and self.route is not None:
            snapshots.append(self.route.snapshot.url)
            clone = self.route.clone
        if self.plan.path is snap_plan.Path.COLD and self.snapshot is not None:
            snapshots.append(self.snapshot.url)
        return journal.Planned(path, tuple(snapshots), clone, self.written)

    def with_leftovers(self, record: journal.Record) -> journal.Planned:
        """What it makes, and what a refused way could not remove."""
        if not record.kept:
            return self.planned
        left = record.planned
        return dataclasses.replace(
            self.planned, clone=left.clone,
            snapshots=(*left.snapshots, *self.planned.snapshots))

    def fallback(self) -> 'Way':
        """The way that is planned for a refusal of this one."""
        assert self.plan.fallback is not None
        return dataclasses.replace(
            self, plan=self.plan.fallback, route=None,
            snapshot=self.snapshot and self.snapshot.another())


class Planner:
    """Plans snapshots on this host.

    :param driver: Nova's :class:`nova.virt.libvirt.driver.LibvirtDriver`
    """

    def __init__(self, driver: Any) -> None:
        self._driver = driver

    @functools.cached_property
    def capabilities(self) -> snap_host.Capabilities:
        """What the host can do, asked once."""
        return snap_host.Host(self._driver._host).capabilities(
            CONF.libvirt.virt_type)

    def plan(self, context: Any, instance: Any, image_id: str) -> Way:
        """Look at an instance, and choose; touches nothing.

        :raises nova.exception.InstanceNotRunning: it has no domain
        :raises DiskUnusable: the XML of its domain names no format
        """
        guest = self._guest(instance)
        disk = imagebackend.root_disk(guest.live_xml())
        image_format = _image_format(disk)
        snapshot, not_held = self._rbd_snapshot(instance, disk)
        route, not_direct = self._route(context, instance, image_id, snapshot,
                                        image_format)
        target, not_stored = self._target(context, instance, image_id,
                                          image_format)
        chosen = self._choose(guest, disk, image_format, not_direct, not_held,
                              not_stored)
        return Way(
            chosen, guest, disk, image_format,
            quiesce.settings(CONF, instance), snapshot, route,
            target if chosen.stored else None)

    def _guest(self, instance: Any) -> snap_guest.Guest:
        find = functools.partial(self._driver._host.get_guest, instance)
        try:
            return snap_guest.Guest(find(), instance, find)
        except nova_exception.InstanceNotFound as ex:
            raise nova_exception.InstanceNotRunning(
                instance_id=instance.uuid) from ex

    def _rbd_snapshot(self, instance: Any,
                      disk: imagebackend.RootDisk | None
                      ) -> tuple[rbd.Snapshot | None, str | None]:
        """An RBD snapshot of the disk to read it from; or none, and why."""
        if disk is None or disk.source.rbd is None:
            return None, None
        try:
            return rbd.locate(self._driver.image_backend, instance,
                              disk.source.rbd), None
        except rbd.Unusable as ex:
            LOG.warning('The disk is on RBD, where Nova cannot reach it: %s',
                        ex, instance=instance)
            return None, str(ex)

    def _route(self, context: Any, instance: Any, image_id: str,
               snapshot: rbd.Snapshot | None, image_format: str
               ) -> tuple[direct.Route | None, str | None]:
        """How Ceph can copy the disk; or none, and why."""
        if snapshot is None:
            return None, 'no RBD snapshot of the disk is to be had'
        if image_format != 'raw':
            return None, 'the image is to have the format %s' % image_format
        try:
            self._check_store(context, instance)
            return direct.route(snapshot, context, instance.image_ref,
                                image_id), None
        except exception.DirectRefused as ex:
            LOG.info('The disk is on RBD and has to be read: %s', ex,
                     instance=instance)
            return None, str(ex)

    def _target(self, context: Any, instance: Any, image_id: str,
                image_format: str) -> tuple[process.Target | None, str | None]:
        """Where in Ceph the image can be written; or none, and why."""
        if CONF.snapdriver.destination != 'rbd':
            return None, ''
        if image_format != 'raw':
            return None, 'the image is to have the format %s' % image_format
        try:
            return snap_rbd.locate(CONF, context, self._driver._image_api,
                                   instance.image_ref, image_id), None
        except exception.DirectRefused as ex:
            return None, str(ex)

    def _check_store(self, context: Any, instance: Any) -> None:
        """Check that the base image is in the store that is asked for.

        Into its pool Nova has the disk copied.

        :raises DirectRefused: it is not, or is not to be seen
        """
        wanted = CONF.snapdriver.store
        if wanted in ('', stores.BASE):
            return
        try:
            found = stores.of(self._driver._image_api.get(
                context, instance.image_ref))
        except Exception as ex:
            raise exception.DirectRefused(str(ex) or repr(ex)) from ex
        if wanted not in found:
            raise exception.DirectRefused(
                '[snapdriver] store is %s, and the image that the server was '
                'made from is not in it' % wanted)

    def _choose(self, guest: snap_guest.Guest,
                disk: imagebackend.RootDisk | None, image_format: str,
                not_direct: str | None, not_held: str | None,
                not_stored: str | None) -> snap_plan.Plan:
        missing, server_missing = self._missing()
        return snap_plan.choose(snap_plan.Facts(
            virt_type=CONF.libvirt.virt_type,
            power_state=guest.power_state(self._driver._host),
            disk=disk,
            image_format=image_format,
            missing=missing,
            server_missing=server_missing,
            live_method=CONF.snapdriver.live_method,
            live_disabled=CONF.workarounds.disable_libvirt_livesnapshot,
            encryption=CONF.ephemeral_storage_encryption.enabled,
            block_job=guest.has_block_job(disk),
            not_direct=not_direct,
            not_held=not_held,
            not_stored=not_stored))

    def _missing(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """What the host lacks for the live path, and for the others.

        If the capabilities cannot be read, fall back to Nova's own snapshot.
        """
        try:
            found = self.capabilities
        except Exception as ex:
            unknown = ('an answer about its capabilities: %s' % ex,)
            return unknown, unknown
        return found.missing, found.server_missing


def log(chosen: snap_plan.Plan, instance: Any) -> None:
    """Log the path and the destination of a snapshot, with the reasons."""
    LOG.info('Snapshot path: %s, as %s', chosen.path, chosen.reason,
             instance=instance)
    if chosen.destination:
        LOG.info('Snapshot destination: %s', chosen.destination,
                 instance=instance)


def _image_format(disk: imagebackend.RootDisk | None) -> str:
    """The format of the image, chosen as Nova chooses it."""
    if CONF.libvirt.snapshot_image_format:
        return str(CONF.libvirt.snapshot_image_format)
    if disk is None or disk.source.type == 'block' or disk.source.rbd:
        return 'raw'
    return disk.source.format


def base_format(instance: Any) -> str | None:
    """Glance's format of the image of an instance, if Nova has noted one."""
    known = instance.image_meta.obj_attr_is_set('disk_format')
    return instance.image_meta.disk_format if known else None

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

"""The compute driver: Nova's libvirt driver with a snapshot of its own."""

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import dataclasses
import functools
from typing import Any

from nova.compute import task_states
from nova.compute import utils as compute_utils
import nova.conf
from nova import exception as nova_exception
from nova import objects
from nova.virt.libvirt import driver
from oslo_log import log as logging
from oslo_utils import timeutils

from nova_snapdriver.capture import cold
from nova_snapdriver.capture import direct
from nova_snapdriver.capture import export
from nova_snapdriver.capture import live
from nova_snapdriver.capture import mirror
from nova_snapdriver.capture import qemunbd
from nova_snapdriver.capture import quiesce
from nova_snapdriver.capture import rbd
from nova_snapdriver.capture import readahead
from nova_snapdriver.capture import request as capture_request
from nova_snapdriver.capture import space
from nova_snapdriver.capture import suspend
from nova_snapdriver.capture import workspace
from nova_snapdriver import compat
from nova_snapdriver import conf
from nova_snapdriver import database
from nova_snapdriver import exception
from nova_snapdriver import faultpoint
from nova_snapdriver import guest as snap_guest
from nova_snapdriver import host as snap_host
from nova_snapdriver import imagebackend
from nova_snapdriver import journal
from nova_snapdriver import plan
from nova_snapdriver.recovery import orphans
from nova_snapdriver.recovery import retry
from nova_snapdriver.recovery import undo
from nova_snapdriver.transfer import cancel
from nova_snapdriver.transfer import compression
from nova_snapdriver.transfer import image as snap_image
from nova_snapdriver.transfer import process
from nova_snapdriver.transfer import send

LOG = logging.getLogger(__name__)
CONF = nova.conf.CONF

conf.register_opts(CONF)

UpdateTaskState = Callable[..., None]

_Capturing = contextlib.AbstractContextManager[export.Capture]

_CAPTURES: dict[plan.Path, Callable[[capture_request.Request], _Capturing]] = {
    plan.Path.LIVE: live.capture,
    plan.Path.MIRROR: mirror.capture,
    plan.Path.COLD: cold.capture,
}


@dataclasses.dataclass(frozen=True)
class _Task:
    """One snapshot, planned: of what, which way, into which image."""

    context: Any
    instance: Any
    guest: snap_guest.Guest
    disk: imagebackend.RootDisk | None
    image_format: str
    plan: plan.Plan
    settings: quiesce.Settings
    image: snap_image.Image
    place: workspace.Workspace
    snapshot: rbd.Snapshot | None = None
    route: direct.Route | None = None

    @property
    def in_ceph(self) -> tuple[str, ...]:
        """URLs of what it makes there, as the journal has them."""
        if self.plan.path is plan.Path.DIRECT and self.route is not None:
            return self.route.snapshot.url, self.route.clone
        if self.plan.path is plan.Path.COLD and self.snapshot is not None:
            return (self.snapshot.url,)
        return ()


class SnapDriver(driver.LibvirtDriver):
    """Nova's libvirt driver; ``snapshot()`` is replaced and nothing else.

    :raises nova.exception.InvalidConfiguration: an option of [snapdriver] has
        a wrong value
    """

    def __init__(self, virtapi: Any, read_only: bool = False) -> None:
        conf.check(CONF)
        super().__init__(virtapi, read_only)
        self._stopping = False

    def init_host(self, host: str) -> None:
        super().init_host(host)
        self._recover(host)
        # What is missing makes snapshots go Nova's way. It is no reason for
        # nova-compute not to start.
        try:
            self._capabilities.log(compression.codec(CONF))
            workspace.check(
                workspace.locate(CONF.snapdriver.scratch_directory))
        except exception.DirectoryUnusable as ex:
            LOG.error('Live snapshots will fail: %s', ex)
        except Exception:
            LOG.exception('Cannot see which ways to take snapshots there are')

    def cleanup_host(self, host: str) -> None:
        """Give up the snapshots that Nova did not want to wait for."""
        self._stopping = True
        super().cleanup_host(host)

    def _recover(self, host: str) -> None:
        """Undo the snapshots that a crash of nova-compute left undone."""
        try:
            if self._undo_abandoned():
                self._retry.begin()
        except Exception:
            LOG.exception('Cannot look for abandoned snapshots')
        orphans.remove(host)

    def _undo_abandoned(self) -> bool:
        """:returns: whether something could not be undone"""
        outcomes = undo.Recovery(
            self._host, CONF.snapdriver.agent_timeout).run(self._journal)
        return any(outcome.failed for outcome in outcomes)

    @functools.cached_property
    def _retry(self) -> retry.Retry:
        return retry.Retry(self._undo_abandoned)

    @functools.cached_property
    def _journal(self) -> journal.Journal:
        return journal.Journal(CONF.snapdriver.journal_directory)

    @functools.cached_property
    def _capabilities(self) -> snap_host.Capabilities:
        return snap_host.Host(self._host).capabilities(CONF.libvirt.virt_type)

    @database.awaited
    def snapshot(self, context: Any, instance: Any, image_id: str,
                 update_task_state: UpdateTaskState) -> None:
        """Take a snapshot of an instance's root disk into an image.

        See :meth:`nova.virt.driver.ComputeDriver.snapshot`. On every way out
        the guest is thawed and as it was, and nothing is left on the host.

        :raises nova.exception.InstanceNotRunning: it has no domain
        :raises nova.exception.InstanceNotFound: it went away meanwhile
        :raises nova.exception.ImageNotFound: the image was deleted meanwhile
        :raises SnapdriverError: anything else, in words; the image is deleted
        """
        task = self._plan(context, instance, image_id)
        faultpoint.reach('snapshot.planned')
        LOG.info('Snapshot path: %s, as %s', task.plan.path, task.plan.reason,
                 instance=instance)
        if task.plan.path is plan.Path.DIRECT:
            if self._direct_snapshot(task, update_task_state):
                return
            task = _fallback(task)
        if task.plan.path is plan.Path.STOCK:
            super().snapshot(context, instance, image_id, update_task_state)
            return
        with (self._noted(task) as record, _discarding(task, record),
              compute_utils.disk_ops_semaphore):
            update_task_state(task_state=task_states.IMAGE_PENDING_UPLOAD)
            with self._capture(task, record) as captured:
                _log_capture(task, captured)
                update_task_state(
                    task_state=task_states.IMAGE_UPLOADING,
                    expected_state=task_states.IMAGE_PENDING_UPLOAD)
                faultpoint.reach('upload.announced')
                self._send(task, captured.export, record,
                           self._metadata(task, captured))

    def _plan(self, context: Any, instance: Any, image_id: str) -> _Task:
        guest = self._snapshot_guest(instance)
        disk = imagebackend.root_disk(guest.live_xml())
        image_format = _image_format(disk)
        snapshot, not_held = self._rbd_snapshot(instance, disk)
        route, not_direct = self._route(context, instance, image_id, snapshot,
                                        image_format)
        return _Task(
            context, instance, guest, disk, image_format, snapshot=snapshot,
            route=route,
            plan=self._choose_path(guest, disk, image_format, not_direct,
                                   not_held),
            settings=quiesce.settings(CONF, instance),
            image=snap_image.Image(
                context, image_id, self._image_api, snap_image.Settings(
                    CONF.glance.num_retries,
                    CONF.snapdriver.upload_stall_timeout)),
            place=workspace.locate(CONF.snapdriver.scratch_directory))

    def _rbd_snapshot(self, instance: Any,
                      disk: imagebackend.RootDisk | None
                      ) -> tuple[rbd.Snapshot | None, str | None]:
        """What makes a disk on RBD hold still; or none, and why not."""
        if disk is None or disk.source.rbd is None:
            return None, None
        try:
            return rbd.locate(self.image_backend, instance,
                              disk.source.rbd), None
        except rbd.Unusable as ex:
            LOG.warning('The disk is on RBD, where Nova cannot reach it: %s',
                        ex, instance=instance)
            return None, str(ex)

    def _route(self, context: Any, instance: Any, image_id: str,
               snapshot: rbd.Snapshot | None, image_format: str
               ) -> tuple[direct.Route | None, str | None]:
        """How Ceph can copy the disk; or none, and why not."""
        if snapshot is None:
            return None, 'no RBD snapshot of the disk is to be had'
        if image_format != 'raw':
            return None, 'the image is to have the format %s' % image_format
        try:
            return direct.route(snapshot, context, instance.image_ref,
                                image_id), None
        except exception.DirectRefused as ex:
            LOG.info('The disk is on RBD and has to be read: %s', ex,
                     instance=instance)
            return None, str(ex)

    @contextlib.contextmanager
    def _noted(self, task: _Task) -> Iterator[journal.Record]:
        record = self._journal.begin(journal.Entry(
            task.instance.uuid, task.image.id, str(task.plan.path),
            task.place.path, task.place.socket, task.settings.has_agent,
            journal.now(), *task.in_ceph))
        try:
            with record:
                yield record
        finally:
            if record.kept:
                self._retry.begin()

    def _direct_snapshot(self, task: _Task,
                         update_task_state: UpdateTaskState) -> bool:
        """Let Ceph copy the disk into Glance's pool.

        The task state changes once it is done: what follows on a refusal
        begins with the state that the API has set.

        :returns: whether it did; if not, it is as if nothing had been
        """
        assert task.route is not None
        try:
            with (self._noted(task) as record,
                  direct.removed_on_error(task.route, record.keep),
                  _discarding(task, record)):
                copied = direct.copy(
                    task.route, task.context, task.image.id, task.guest,
                    task.settings, task.guest.exists())
                _log_capture(task, copied)
                faultpoint.reach('direct.copied')
                task.image.refer(copied.location,
                                 self._metadata(task, copied))
                faultpoint.reach('direct.referred')
                update_task_state(task_state=task_states.IMAGE_PENDING_UPLOAD)
                update_task_state(
                    task_state=task_states.IMAGE_UPLOADING,
                    expected_state=task_states.IMAGE_PENDING_UPLOAD)
        except exception.DirectRefused as ex:
            LOG.warning('Ceph or Glance refused a direct snapshot, the disk '
                        'is read instead: %s', ex, instance=task.instance)
            return False
        return True

    def _snapshot_guest(self, instance: Any) -> snap_guest.Guest:
        find = functools.partial(self._host.get_guest, instance)
        try:
            return snap_guest.Guest(find(), instance, find)
        except nova_exception.InstanceNotFound as ex:
            raise nova_exception.InstanceNotRunning(
                instance_id=instance.uuid) from ex

    def _choose_path(self, guest: snap_guest.Guest,
                     disk: imagebackend.RootDisk | None,
                     image_format: str, not_direct: str | None,
                     not_held: str | None) -> plan.Plan:
        missing, server_missing = self._missing()
        return plan.choose(plan.Facts(
            virt_type=CONF.libvirt.virt_type,
            power_state=guest.power_state(self._host),
            disk=disk,
            image_format=image_format,
            missing=missing,
            server_missing=server_missing,
            live_method=CONF.snapdriver.live_method,
            live_disabled=CONF.workarounds.disable_libvirt_livesnapshot,
            encryption=CONF.ephemeral_storage_encryption.enabled,
            not_direct=not_direct,
            not_held=not_held))

    def _missing(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """What the host lacks for the live path, and for the others.

        Unknown is no reason for no snapshot.
        """
        try:
            found = self._capabilities
        except Exception as ex:
            unknown = ('an answer about its capabilities: %s' % ex,)
            return unknown, unknown
        return found.missing, found.server_missing

    def _capture(self, task: _Task, record: journal.Record) -> _Capturing:
        assert task.disk is not None    # a plan for a way of ours has a disk
        return _CAPTURES[task.plan.path](capture_request.Request(
            task.guest, task.disk, task.settings, task.place, record.keep,
            space.limits(CONF),
            self._power(task, record) if task.plan.suspends else None,
            task.snapshot, readahead.spool(CONF, task.place.path)))

    def _power(self, task: _Task, record: journal.Record) -> suspend.Power:
        """How Nova suspends and starts an instance, and what is between."""
        instance = task.instance

        def launch() -> None:
            self.cpu_api.power_up_for_instance(instance)
            self._host.get_guest(instance).launch()

        def attach() -> None:
            guest = self._host.get_guest(instance)
            self._attach_pci_devices(guest, instance.get_pci_devices(
                source=objects.InstancePCIRequest.FLAVOR_ALIAS))
            self._attach_direct_passthrough_ports(task.context, instance,
                                                  guest)
            # The definition still has those that the guest was suspended
            # without.
            self._attach_mediated_devices(
                guest, self._get_mdevs_from_guest_config(
                    guest.get_xml_desc(dump_inactive=True)))

        return suspend.Power(
            functools.partial(self.suspend, task.context, instance), launch,
            attach, record.note_suspended)

    def _metadata(self, task: _Task,
                  captured: export.Capture | direct.Copied
                  ) -> dict[str, Any]:
        metadata: dict[str, Any] = self._create_snapshot_metadata(
            task.instance.image_meta, task.instance, task.image_format, None)
        # The API has named the image: asking for the name just to set it
        # again would cost two requests while the image is waited for.
        del metadata['name']
        metadata['properties'].update(
            snapdriver_path=str(task.plan.path),
            snapdriver_consistency=str(captured.consistency),
            snapdriver_captured_at=captured.captured_at.isoformat(
                timespec='milliseconds'))
        return metadata

    def _send(self, task: _Task, source: export.Export, record: journal.Record,
              metadata: dict[str, Any]) -> None:
        request = process.Request(
            source, task.image_format,
            CONF.snapdriver.hash_algorithm if CONF.snapdriver.verify else None,
            compression.choose(CONF, task.image_format, task.place,
                               task.instance),
            process.limits(CONF))
        settings = send.Settings(CONF.snapdriver.verify,
                                 CONF.snapdriver.progress_interval)
        watch = timeutils.StopWatch().start()
        with cancel.Watch((self._is_stopping,
                           functools.partial(_lost_its_server, task, source),
                           functools.partial(_lost_its_image, task)),
                          functools.partial(_is_gone, source)) as ends:
            # In eventlet mode in a native thread: it reads pipes.
            length = compat.native_thread(send.send)(
                task.image, metadata, request, record, settings, ends)
        LOG.info('Snapshot uploaded and verified: bytes=%d seconds=%.1f',
                 length, watch.elapsed(), instance=task.instance)

    def _is_stopping(self) -> Exception | None:
        if self._stopping:
            return exception.Cancelled(reason='nova-compute was stopped')
        return None


def _is_gone(source: export.Export) -> bool:
    """Whether nobody serves an export any more."""
    return not source.ended_early and not qemunbd.greets(source.socket)


def _lost_its_server(task: _Task, source: export.Export) -> Exception | None:
    if not task.guest.defined():
        return exception.Cancelled(reason='the server is gone')
    if task.plan.path is not plan.Path.LIVE:
        return None                     # the capture does without the guest
    # The job first: a guest that stops takes it along.
    if task.guest.backup_socket() == task.place.socket:
        return None
    if source.ended_early:
        return None                     # by us: the disk has been read
    if not task.guest.exists():
        return exception.Cancelled(reason='the server was stopped')
    return exception.Cancelled(
        reason='somebody restarted the server, or ended its backup job')


def _lost_its_image(task: _Task) -> Exception | None:
    if not task.image.deleted():
        return None
    lost: Exception = nova_exception.ImageNotFound(image_id=task.image.id)
    return lost


def _is_deleted(task: _Task) -> bool:
    """Whether the server is gone, or going; not, if nobody says so."""
    try:
        if not task.guest.defined():
            return True
        found = database.find(task.instance.uuid)
    except nova_exception.InstanceNotFound:
        return True
    except Exception as ex:
        LOG.warning('Cannot see whether the server is being deleted: %s', ex,
                    instance=task.instance)
        return False
    deleting = (task_states.DELETING, task_states.SOFT_DELETING)
    return bool(found.task_state in deleting)


def _image_format(disk: imagebackend.RootDisk | None) -> str:
    """The format of the image, chosen as Nova chooses it."""
    if CONF.libvirt.snapshot_image_format:
        return str(CONF.libvirt.snapshot_image_format)
    if disk is None or disk.source.type == 'block' or disk.source.rbd:
        return 'raw'
    return disk.source.format


def _fallback(task: _Task) -> _Task:
    """The task, in the way that is planned for a refusal."""
    assert task.plan.fallback is not None
    LOG.info('Snapshot path: %s, as %s', task.plan.fallback.path,
             task.plan.fallback.reason, instance=task.instance)
    return dataclasses.replace(
        task, plan=task.plan.fallback, route=None,
        snapshot=task.snapshot and task.snapshot.another())


def _log_capture(task: _Task,
                 captured: export.Capture | direct.Copied) -> None:
    LOG.info('Snapshot captured: path=%s consistency=%s freeze_seconds=%.3f',
             task.plan.path, captured.consistency, captured.freeze_seconds,
             instance=task.instance)


@contextlib.contextmanager
def _discarding(task: _Task, record: journal.Record) -> Iterator[None]:
    """Delete the image of a snapshot that fails, now or by a recovery."""
    try:
        yield
    except exception.DirectRefused:
        raise
    except Exception as ex:
        # Also if it is said to be deleted: who says so may be a proxy.
        if not task.image.discard():
            record.keep()
        if (isinstance(ex, (exception.StreamFailed, exception.Cancelled)) and
                _is_deleted(task)):
            # The disk went away because its server did. One that was only
            # stopped is another matter: for a deleted one, Nova's manager
            # would leave the task state as it is.
            raise nova_exception.InstanceNotFound(
                instance_id=task.instance.uuid) from ex
        raise

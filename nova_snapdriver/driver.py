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

from collections.abc import Iterator
import contextlib
import dataclasses
import functools
import threading
from typing import Any

from nova.compute import utils as compute_utils
import nova.conf
from nova import exception as nova_exception
from nova.virt.libvirt import driver
from oslo_log import log as logging
from oslo_utils import timeutils

from nova_snapdriver.capture import direct
from nova_snapdriver.capture import export
from nova_snapdriver.capture import paths
from nova_snapdriver.capture import readahead
from nova_snapdriver.capture import request as capture_request
from nova_snapdriver.capture import scratch
from nova_snapdriver.capture import space
from nova_snapdriver.capture import suspend
from nova_snapdriver.capture import workspace
from nova_snapdriver.compute import causes
from nova_snapdriver.compute import checks
from nova_snapdriver.compute import events
from nova_snapdriver.compute import planning
from nova_snapdriver.compute import power
from nova_snapdriver.compute import progress
from nova_snapdriver.compute import running
from nova_snapdriver.compute import shutdown
from nova_snapdriver.compute import taskstate
from nova_snapdriver import conf
from nova_snapdriver import database
from nova_snapdriver import exception
from nova_snapdriver import faultpoint
from nova_snapdriver import host as snap_host
from nova_snapdriver import journal
from nova_snapdriver import metrics
from nova_snapdriver import plan
from nova_snapdriver.recovery import earlier
from nova_snapdriver.recovery import images
from nova_snapdriver.recovery import orphans
from nova_snapdriver.recovery import retry
from nova_snapdriver.recovery import undo
from nova_snapdriver import threadpool
from nova_snapdriver.transfer import compression
from nova_snapdriver.transfer import description
from nova_snapdriver.transfer import destination
from nova_snapdriver.transfer import hashes
from nova_snapdriver.transfer import image as snap_image
from nova_snapdriver.transfer import process
from nova_snapdriver.transfer import rbd as snap_rbd
from nova_snapdriver.transfer import send
from nova_snapdriver.transfer import stores

LOG = logging.getLogger(__name__)
CONF = nova.conf.CONF

conf.register_opts(CONF)


@dataclasses.dataclass(frozen=True)
class _Task:
    """One snapshot, as it was asked for: of what, into which image."""

    context: Any
    instance: Any
    image: snap_image.Image
    state: taskstate.TaskState
    snapshot: running.Snapshot
    record: journal.Record
    place: workspace.Workspace
    meter: metrics.Meter


class SnapDriver(driver.LibvirtDriver):
    """Nova's libvirt driver; ``snapshot()`` is replaced and nothing else.

    What ends a guest (``destroy``, ``cleanup``) first ends its snapshots.

    :raises nova.exception.InvalidConfiguration: an option of [snapdriver] has
        a wrong value
    """

    def __init__(self, virtapi: Any, read_only: bool = False) -> None:
        conf.check(CONF)
        super().__init__(virtapi, read_only)
        self._planner = planning.Planner(self)
        self._power = power.Power(self)
        self._running = running.Running(CONF.max_concurrent_snapshots)
        self._shutdown = shutdown.Shutdown(virtapi, self._running)
        self._sees_images = False

    def init_host(self, host: str) -> None:
        super().init_host(host)
        self._recover(host)
        self._shutdown.watch()
        # What is missing makes snapshots go Nova's way. It is no reason for
        # nova-compute not to start.
        try:
            self._planner.capabilities.log(compression.codec(CONF))
            checks.log(self._host.get_connection())
            workspace.try_out(
                workspace.locate(CONF.snapdriver.scratch_directory),
                snap_host.Host(self._host).qemu_uid())
        except exception.DirectoryUnusable as ex:
            LOG.error('Live snapshots will fail: %s', ex)
        except Exception:
            LOG.exception('Cannot see which ways to take snapshots there are')

    def cleanup_host(self, host: str) -> None:
        """End the snapshots that Nova did not want to wait for."""
        self._shutdown.end()
        super().cleanup_host(host)

    def destroy(self, context: Any, instance: Any, *args: Any,
                **kwargs: Any) -> None:
        """See :meth:`nova.virt.driver.ComputeDriver.destroy`."""
        self._running.end_of(instance)
        super().destroy(context, instance, *args, **kwargs)

    def cleanup(self, context: Any, instance: Any, *args: Any,
                **kwargs: Any) -> None:
        """See :meth:`nova.virt.driver.ComputeDriver.cleanup`."""
        self._running.end_of(instance)
        super().cleanup(context, instance, *args, **kwargs)

    # After a crash

    def _recover(self, host: str) -> None:
        """Undo the snapshots that a crash of nova-compute left undone."""
        self._orphans.find()
        try:
            for found in self._journal.unusable():
                LOG.error('The journal %(path)s is left alone: %(reason)s',
                          {'path': found.path, 'reason': found.reason})
            if (self._undo_snapshots() is not retry.Left.NOTHING or
                    self._orphans.pending()):
                self._retry.begin()
            lacking = images.missing_role()
        except Exception:
            LOG.exception('Cannot look for abandoned snapshots')
            self._retry.begin()
            return
        if lacking:
            LOG.warning('After a crash of nova-compute, unfinished images of '
                        'snapshots will stay: %s', lacking)

    @functools.cached_property
    def _recovery(self) -> undo.Recovery:
        return undo.Recovery(undo.Tools(
            self._host, self._power.launch_again, self._power.attach_again,
            CONF.snapdriver.agent_timeout))

    def _undo_abandoned(self) -> retry.Left:
        """Undo what can be undone."""
        left = self._undo_snapshots()
        if self._orphans.remove() and left is retry.Left.NOTHING:
            return retry.Left.SOMETHING
        return left

    def _undo_snapshots(self) -> retry.Left:
        outcomes = self._recovery.run(self._journal)
        if any(outcome.guest_waits for outcome in outcomes):
            return retry.Left.GUEST
        if any(outcome.failed for outcome in outcomes):
            return retry.Left.SOMETHING
        return retry.Left.NOTHING

    @functools.cached_property
    def _orphans(self) -> orphans.Orphans:
        return orphans.Orphans(CONF.host)

    @functools.cached_property
    def _retry(self) -> retry.Retry:
        return retry.Retry(self._undo_abandoned)

    @functools.cached_property
    def _journal(self) -> journal.Journal:
        return journal.Journal(CONF.snapdriver.journal_directory, CONF.host)

    # A snapshot

    @database.awaited
    def snapshot(self, context: Any, instance: Any, image_id: str,
                 update_task_state: taskstate.Update) -> None:
        """Take a snapshot of an instance's root disk into an image.

        See :meth:`nova.virt.driver.ComputeDriver.snapshot`. On every way out
        the guest is thawed and as it was, and nothing is left on the host.

        :raises nova.exception.InstanceNotRunning: it has no domain
        :raises nova.exception.InstanceNotFound: it went away meanwhile
        :raises nova.exception.ImageNotFound: the image was deleted meanwhile
        :raises SnapdriverError: anything else, in words; the image is deleted
        """
        meter = metrics.Meter()
        image = snap_image.Image(
            context, image_id, self._image_api, snap_image.Settings(
                CONF.glance.num_retries,
                CONF.snapdriver.upload_stall_timeout, meter))
        state = taskstate.TaskState(update_task_state)
        place = workspace.locate(CONF.snapdriver.scratch_directory)
        with (metrics.logged(meter, instance, image_id),
              self._running.one(instance.uuid) as snapshot,
              self._begun(instance, image, state, place) as record):
            task = _Task(context, instance, image, state, snapshot, record,
                         place, meter)
            with _discarding(task), self._running.turn(snapshot):
                self._take(task)

    @contextlib.contextmanager
    def _begun(self, instance: Any, image: snap_image.Image,
               state: taskstate.TaskState, place: workspace.Workspace
               ) -> Iterator[journal.Record]:
        """Have the snapshot in the journal: without that, no image either."""
        try:
            # First: Nova does not clear all states that come before.
            state.pending()
            record = self._note(instance, image, place)
        except Exception:
            self._discard_unnoted(instance, image, place)
            raise
        try:
            with record:
                yield record
        finally:
            if record.kept:
                self._retry.begin()

    def _note(self, instance: Any, image: snap_image.Image,
              place: workspace.Workspace) -> journal.Record:
        return self._journal.begin(journal.Entry(
            CONF.host, instance.uuid, image.id, place.path, place.socket,
            journal.now(), self._shows(image)))

    def _discard_unnoted(self, instance: Any, image: snap_image.Image,
                         place: workspace.Workspace) -> None:
        """Delete an image before there is an entry; with one if it fails."""
        if image.discard():
            return
        with contextlib.suppress(exception.JournalUnusable):
            record = self._note(instance, image, place)
            record.keep()
            record.close()
            self._retry.begin()

    def _take(self, task: _Task) -> None:
        task.meter.begin(metrics.Phase.PLAN)
        earlier.refuse(self._journal, task.instance.uuid)
        task.image.store = stores.choose(
            CONF.snapdriver.store, task.context, lambda: self._base(task))
        way = self._planner.plan(task.context, task.instance, task.image.id)
        faultpoint.reach('snapshot.planned')
        _log_plan(task, way.plan)
        if way.plan.path is plan.Path.DIRECT:
            if self._direct_snapshot(task, way):
                return
            way = way.fallback()
            _log_plan(task, way.plan)
        if way.plan.path is plan.Path.REFUSED:
            raise exception.CaptureFailed(reason=way.plan.reason)
        task.record.note_planned(way.with_leftovers(task.record))
        if way.plan.path is plan.Path.STOCK:
            task.image.remove_labels()
            task.meter.begin(metrics.Phase.UPLOAD)
            super().snapshot(task.context, task.instance, task.image.id,
                             task.state.update)
            return
        self._describe(task, way)
        with (running.taken(compute_utils.disk_ops_semaphore, task.snapshot),
              self._capture(task, way) as captured,
              scratch.measured(task.place, task.meter)):
            _log_capture(task, way, captured)
            events.tell_frozen(task.context, task.instance, task.record)
            task.state.uploading()
            faultpoint.reach('upload.announced')
            self._send(task, way, captured)
            _require_server(task)
            task.meter.begin(metrics.Phase.RELEASE)

    def _direct_snapshot(self, task: _Task, way: planning.Way) -> bool:
        """Have Ceph copy the disk into Glance's pool.

        :returns: whether it did; if not, it is as if nothing had been
        """
        assert way.route is not None
        task.record.note_planned(way.planned)
        self._describe(task, way)
        task.meter.begin(metrics.Phase.CAPTURE)
        referred = threading.Event()
        try:
            with direct.removed_on_error(
                    way.route.undo, str(way.route), task.record.keep,
                    lambda: not referred.is_set() or task.image.delete()):
                copied = direct.copy(
                    way.route, task.context, task.image.id, way.guest,
                    way.settings, task.record, way.guest.exists())
                _log_capture(task, way, copied)
                faultpoint.reach('direct.copied')
                referred.set()
                task.image.refer(copied.location,
                                 description.last(CONF, way.plan.path, copied))
                faultpoint.reach('direct.referred')
                task.state.uploading()
                _require_server(task)
        except exception.DirectRefused as ex:
            LOG.warning('Ceph or Glance refused a direct snapshot, the disk '
                        'is read instead: %s', ex, instance=task.instance)
            return False
        return True

    def _capture(self, task: _Task, way: planning.Way) -> paths.Capturing:
        assert way.disk is not None     # all paths but the stock one need it
        task.meter.begin(metrics.Phase.CAPTURE)
        return paths.CAPTURES[way.plan.path](capture_request.Request(
            way.guest, way.disk, way.settings, task.place, task.record,
            space.limits(CONF),
            self._suspension(task) if way.plan.suspends else None,
            way.snapshot, readahead.spool(CONF, task.place.path),
            planning.base_format(task.instance), task.snapshot.check,
            task.meter))

    def _suspension(self, task: _Task) -> suspend.Power:
        """How Nova suspends and starts the instance."""
        return suspend.Power(
            functools.partial(self._power.suspend, task.context,
                              task.instance),
            functools.partial(self._power.launch, task.instance),
            functools.partial(self._power.attach, task.context,
                              task.instance))

    def _describe(self, task: _Task, way: planning.Way) -> None:
        """Set what is known of the image before the disk is captured."""
        metadata: dict[str, Any] = self._create_snapshot_metadata(
            task.instance.image_meta, task.instance, way.image_format, None)
        del metadata['name']            # the API has set it
        with (causes.early(task.snapshot) as ends,
              ends.ending(task.image.cancel)):
            task.image.describe_first(metadata)

    def _send(self, task: _Task, way: planning.Way,
              captured: export.Capture) -> None:
        if way.target is not None:
            if self._write_into_ceph(task, way, way.target, captured):
                return
        self._send_to(task.image, task, way, captured, process.Request(
            captured.export, way.image_format,
            self._algorithm(task) if CONF.snapdriver.verify else None,
            compression.choose(CONF, way.image_format, task.instance),
            process.limits(CONF)))

    def _write_into_ceph(self, task: _Task, way: planning.Way,
                         target: process.Target,
                         captured: export.Capture) -> bool:
        """Write the disk into the pool of Glance's store.

        :returns: whether it is there; if not, it is as if nothing had been
        """
        image, url = snap_rbd.StoredImage(task.image, target), way.written
        # Never ended early: if Ceph refuses, the disk is read again.
        source = dataclasses.replace(captured.export, ahead=None)
        request = process.Request(
            source, way.image_format, None,
            limits=process.limits(CONF), target=target)
        try:
            with direct.removed_on_error(
                    lambda: snap_rbd.remove(CONF, url), url, task.record.keep,
                    lambda: not image.referred or task.image.delete()):
                self._send_to(image, task, way, captured, request)
        except exception.DirectRefused as ex:
            task.meter.destination = metrics.GLANCE
            LOG.warning('Ceph or Glance refused an image in the pool '
                        '%(pool)s, it is uploaded instead: %(error)s',
                        {'pool': target.pool, 'error': ex},
                        instance=task.instance)
            return False
        return True

    def _send_to(self, image: destination.Destination, task: _Task,
                 way: planning.Way, captured: export.Capture,
                 request: process.Request) -> None:
        settings = send.Settings(CONF.snapdriver.verify,
                                 CONF.snapdriver.progress_interval,
                                 task.snapshot.note_sent, task.meter)
        labels = description.last(CONF, way.plan.path, captured)
        watch = timeutils.StopWatch().start()
        with (progress.cleared(task.snapshot, task.record),
              causes.watch(task.snapshot, captured.export, way.guest,
                           task.image,
                           way.plan.path is plan.Path.LIVE) as ends):
            # In eventlet mode in a native thread: it reads pipes.
            length = threadpool.call(
                send.send, image, labels, request, task.record, settings,
                ends)
        LOG.info('Snapshot uploaded and verified: bytes=%d seconds=%.1f',
                 length, watch.elapsed(), instance=task.instance)

    def _algorithm(self, task: _Task) -> str:
        """The hash that Glance is going to compute of the image."""
        return hashes.choose(lambda: self._base(task))

    def _base(self, task: _Task) -> dict[str, Any]:
        """The image that the server was made from."""
        found: dict[str, Any] = self._image_api.get(
            task.context, task.instance.image_ref)
        return found

    def _shows(self, image: snap_image.Image) -> bool:
        """Whether Glance shows [service_user] the images of tenants."""
        self._sees_images = self._sees_images or images.is_visible(image.id)
        return self._sees_images


def _require_server(task: _Task) -> None:
    """:raises nova.exception.InstanceNotFound: it is deleted by now"""
    task.snapshot.check()
    if _is_deleted(task):
        raise nova_exception.InstanceNotFound(instance_id=task.instance.uuid)


def _is_deleted(task: _Task) -> bool:
    """Whether the server is gone, or going; not, if nobody says so."""
    try:
        return database.is_deleted(task.instance.uuid)
    except Exception as ex:
        LOG.warning('Cannot see whether the server is being deleted: %s', ex,
                    instance=task.instance)
        return False


def _log_plan(task: _Task, chosen: plan.Plan) -> None:
    planning.log(chosen, task.instance)
    task.meter.planned(chosen)


def _log_capture(task: _Task, way: planning.Way,
                 captured: export.Capture | direct.Copied) -> None:
    LOG.info('Snapshot captured: path=%s consistency=%s freeze_seconds=%.3f',
             way.plan.path, captured.consistency, captured.freeze_seconds,
             instance=task.instance)
    task.meter.captured(captured.consistency, captured.freeze_seconds)


@contextlib.contextmanager
def _discarding(task: _Task) -> Iterator[None]:
    """Delete the image of a snapshot that fails, now or by a recovery."""
    try:
        yield
    except Exception as ex:
        _discard(task)
        lost = _explained(task, ex)
        if lost is ex:
            raise
        raise lost from ex


def _discard(task: _Task) -> None:
    # Also if it is said to be deleted: who says so may be a proxy.
    if not task.image.discard():
        task.record.keep()
    if task.image.gone and task.record.kept:
        # A recovery may be shown no image of a tenant.
        with contextlib.suppress(exception.JournalUnusable):
            task.record.note_gone()


def _explained(task: _Task, error: Exception) -> Exception:
    """What Nova's manager is told."""
    if task.snapshot.cause is not None:
        return task.snapshot.cause
    if isinstance(error, exception.SnapdriverError) and _is_deleted(task):
        # The disk went away because its server did. One that was only
        # stopped is another matter: for a deleted one, Nova's manager leaves
        # the task state as it is.
        lost: Exception = nova_exception.InstanceNotFound(
            instance_id=task.instance.uuid)
        return lost
    return error

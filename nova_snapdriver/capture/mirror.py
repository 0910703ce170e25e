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

"""The mirror path: a block copy of the disk into an overlay.

QEMU copies the disk, without the data of its backing file, into an overlay of
the same backing file, and from then on everything that the guest writes. When
the copy is complete, aborting the job leaves in the overlay what the disk held
at that instant. Source: virDomainBlockCopy and virDomainBlockJobAbort.

The job is transient, so the domain stays persistent: libvirt requires an
undefined domain only for copy jobs that are not.
"""

import collections
from collections.abc import Iterator
import contextlib
import datetime
import os

from lxml import etree
from oslo_log import log as logging
from oslo_utils import timeutils

from nova_snapdriver.capture import export
from nova_snapdriver.capture import job
from nova_snapdriver.capture import privsep
from nova_snapdriver.capture import quiesce
from nova_snapdriver.capture import request as capture_request
from nova_snapdriver.capture import server
from nova_snapdriver.capture import space
from nova_snapdriver.capture import workspace
from nova_snapdriver import child
from nova_snapdriver import exception
from nova_snapdriver import faultpoint
from nova_snapdriver import guest as snap_guest
from nova_snapdriver import imagebackend
from nova_snapdriver import waiting

LOG = logging.getLogger(__name__)

# How often the list of received events is checked, which costs no call.
_EVENT_POLL_SECONDS = 0.05
# How often libvirt is asked: for the progress, and for what no event tells, as
# the domain was stopped or libvirtd was away.
_INFO_SECONDS = 2
_LOG_SECONDS = 30
# How long a copy may make no progress. It never becomes complete if the guest
# writes faster than QEMU copies.
_STALL_SECONDS = 300
# The last event follows the end of the job at once.
_LAST_EVENT_SECONDS = 30

_Events = collections.deque[snap_guest.BlockJobEvent]


@contextlib.contextmanager
def capture(request: capture_request.Request) -> Iterator[export.Capture]:
    """Capture the disk of a running or paused domain by a block copy.

    On every way out, the guest is thawed, the job ended and the workspace
    removed. The domain is never undefined, and keeps its disk.

    :raises QuiesceFailed: the image requires it, and the freeze failed
    :raises CaptureFailed: libvirt or QEMU refused, or the copy failed
    :raises DirectoryUnusable: the workspace cannot be created
    :raises ScratchExhausted: there is no space for a copy
    """
    place, target = request.place, request.disk.target
    _refuse_other_jobs(request.guest, target)
    owner = request.guest.qemu_owner()
    with workspace.private(place, None, request.notes.keep):
        _make_overlay(request, owner)
        faultpoint.reach('mirror.overlay-made')
        consistency, captured_at, seconds = _copy(request)
        _take_back(place.overlay)
        chain = (imagebackend.Source('file', 'qcow2', place.overlay),
                 *request.disk.backing)
        with server.serve(place, chain, target) as exported:
            yield export.Capture(exported, consistency, captured_at, seconds)


def _refuse_other_jobs(guest: snap_guest.Guest, target: str) -> None:
    job.refuse_others(guest)
    if guest.block_job(target) is not None:
        raise exception.CaptureFailed(
            reason='another block job runs on disk %s; try again when it is '
                   'done' % target)


# The overlay


def _make_overlay(request: capture_request.Request,
                  owner: tuple[int, int] | None) -> None:
    size = request.guest.disk_size(request.disk.target)
    # The allocation can be larger than the disk, by internal snapshots.
    space.require(request.place, request.limits,
                  min(size.capacity, size.allocation))
    backing: tuple[str, ...] = ()
    if request.disk.backing:
        below = request.disk.backing[0]
        # "-u": qemu-img must not open the backing file; QEMU does.
        backing = ('-u', '-b', str(below.path), '-F', below.format)
    overlay = request.place.overlay
    child.output('qemu-img', 'create', '-f', 'qcow2', *backing, overlay,
                 str(size.capacity))
    os.chmod(overlay, 0o600)
    # QEMU's user may pass, and exchange nothing: the directory is not its own.
    os.chmod(request.place.path, 0o711)
    if owner is not None and owner[0] != os.geteuid():
        privsep.give(overlay, os.geteuid(), owner[0])


def _take_back(overlay: str) -> None:
    """Own the overlay again, whomever libvirt has given it to at the end."""
    uid = os.stat(overlay, follow_symlinks=False).st_uid
    if uid != os.geteuid():
        privsep.give(overlay, uid, os.geteuid())


def copy_xml(overlay: str, backing: tuple[imagebackend.Source, ...]) -> str:
    """Build the disk element for the target of a block copy.

    It names the whole backing chain, so that libvirt probes no header.
    """
    disk = etree.Element('disk', type='file')
    etree.SubElement(disk, 'driver', name='qemu', type='qcow2')
    etree.SubElement(disk, 'source', file=overlay)
    level = disk
    for source in backing:
        level = etree.SubElement(level, 'backingStore', type=source.type)
        etree.SubElement(level, 'format', type=source.format)
        etree.SubElement(level, 'source', {
            imagebackend.PATH_ATTRIBUTES[source.type]: str(source.path)})
    etree.SubElement(level, 'backingStore')
    return str(etree.tostring(disk, encoding='unicode'))


# The copy


def _copy(request: capture_request.Request,
          ) -> tuple[export.Consistency, datetime.datetime, float]:
    guest, target, place = request.guest, request.disk.target, request.place
    # Events are collected from before the job until after it.
    with (guest.block_job_events(target) as events,
          job.BlockCopy(guest, place.overlay, request.notes.keep)):
        guest.begin_copy(target, copy_xml(place.overlay, request.disk.backing))
        faultpoint.reach('mirror.begun')
        _wait_until_ready(request, events)
        faultpoint.reach('mirror.in-step')
        watch = timeutils.StopWatch().start()
        with quiesce.frozen(guest, request.settings,
                            request.notes) as quiesced:
            # If another client has ended the job, the overlay is too old.
            _require_ready(target, events)
            guest.end_copy(target)
            faultpoint.reach('mirror.ended')
            captured_at = datetime.datetime.now(datetime.UTC)
        seconds = watch.elapsed()
        _wait_for_the_end(target, events)
    return quiesced.consistency, captured_at, seconds


def _wait_until_ready(request: capture_request.Request,
                      events: _Events) -> None:
    """Wait until the copy is complete.

    :raises CaptureFailed: the job ended, failed, or makes no progress
    """
    guest, target = request.guest, request.disk.target
    progress = _Progress(guest, target)
    while not waiting.wait_until(lambda: events, _INFO_SECONDS,
                                 _EVENT_POLL_SECONDS):
        request.check()
        progress.check(events)
        # Should it fail now, aborting the job is an error later on.
        if guest.copy_is_ready(request.place.overlay):
            events.append(snap_guest.BlockJobEvent.READY)
    _require_ready(target, events)


def _require_ready(target: str, events: _Events) -> None:
    if events[-1] is not snap_guest.BlockJobEvent.READY:
        raise exception.CaptureFailed(
            reason='the copy of disk %s %s before it was complete' %
                   (target, events[-1].value))


class _Progress:
    """Checks that a block copy makes progress, and logs it."""

    def __init__(self, guest: snap_guest.Guest, target: str) -> None:
        self._guest = guest
        self._target = target
        self._left: int | None = None
        self._stall = timeutils.StopWatch(_STALL_SECONDS).start()
        self._quiet = timeutils.StopWatch(_LOG_SECONDS).start()

    def check(self, events: _Events) -> None:
        """:raises CaptureFailed: there is no job, or it makes no progress"""
        copying = self._guest.block_job(self._target)
        # If an event came while libvirt was asked, it tells what happened.
        if copying is None and not events:
            raise exception.CaptureFailed(
                reason='the copy of disk %s ended before it was complete' %
                       self._target)
        if copying is not None:
            self._note(copying)
        if self._stall.expired():
            raise exception.CaptureFailed(
                reason='the copy of disk %s made no progress for %d seconds; '
                       'the guest may write faster than its disk can be '
                       'copied' % (self._target, _STALL_SECONDS))

    def _note(self, copying: snap_guest.Copying) -> None:
        left = copying.length - copying.done
        if copying.length and (self._left is None or left < self._left):
            self._left = left
            self._stall.restart()
        if self._quiet.expired():
            LOG.info('Copying disk %(disk)s: %(done)d of %(length)d bytes',
                     {'disk': self._target, 'done': copying.done,
                      'length': copying.length}, instance=self._guest.instance)
            self._quiet.restart()


def _wait_for_the_end(target: str, events: _Events) -> None:
    """Wait for the event that tells whether the job ended well.

    Libvirt's call succeeds even if the job failed to write the last data.

    :raises CaptureFailed: it failed, or no event comes
    """
    if not waiting.wait_until(
            lambda: events[-1] is not snap_guest.BlockJobEvent.READY,
            _LAST_EVENT_SECONDS, _EVENT_POLL_SECONDS):
        raise exception.CaptureFailed(
            reason='libvirt does not say how the copy of disk %s ended' %
                   target)
    if events[-1] is snap_guest.BlockJobEvent.FAILED:
        raise exception.CaptureFailed(
            reason='the copy of disk %s failed at its end' % target)

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

"""The cold path: capture the disk of a stopped or suspended domain.

The disk of a stopped domain is read in place. A running guest is suspended
while its disk is copied: by a clone where the file system can share blocks,
which takes no time and no space, else into a file with all of its data. The
guest is resumed before the upload begins.
"""

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import dataclasses
import datetime
import os

from oslo_log import log as logging
from oslo_utils import timeutils

from nova_snapdriver.capture import chain
from nova_snapdriver.capture import copying
from nova_snapdriver.capture import export
from nova_snapdriver.capture import job
from nova_snapdriver.capture import quiesce
from nova_snapdriver.capture import rbd
from nova_snapdriver.capture import request as capture_request
from nova_snapdriver.capture import scratch
from nova_snapdriver.capture import server
from nova_snapdriver.capture import suspend
from nova_snapdriver.capture import workspace
from nova_snapdriver import faultpoint
from nova_snapdriver import imagebackend

LOG = logging.getLogger(__name__)

_Chain = tuple[imagebackend.Source, ...]
_Hold = contextlib.AbstractContextManager[_Chain]
_Serve = Callable[[capture_request.Request, _Chain],
                  contextlib.AbstractContextManager[export.Export]]


@contextlib.contextmanager
def capture(request: capture_request.Request) -> Iterator[export.Capture]:
    """Export the disk of a domain that is stopped, or suspended for it.

    While the disk of a stopped domain is read, QEMU's image lock keeps the
    domain from starting. With a disk on RBD it starts, as an RBD snapshot is
    read.

    :raises DiskUnusable: its backing chain is unknown without probing
    :raises CaptureFailed: qemu-nbd failed, a QEMU has the disk open for
        writing, or the guest cannot be suspended
    :raises ResumeFailed: the guest was suspended and cannot be resumed
    :raises DirectoryUnusable: the workspace cannot be created
    :raises ScratchExhausted: there is no space for a copy
    """
    way = _of_stopped if request.power is None else _of_active
    with way(request) as captured:
        yield captured


@contextlib.contextmanager
def _of_stopped(request: capture_request.Request) -> Iterator[export.Capture]:
    """Export the disk of a domain that is shut off, saved or crashed.

    Nothing is copied, and a managed save image is left alone.

    :raises QuiesceFailed: the image requires it, and the domain is suspended
    """
    held: _Hold = (
        contextlib.nullcontext(chain.images(request.disk, request.base_format))
        if request.snapshot is None else _snapshotted(request))
    with (workspace.private(request.place, None, request.notes.keep),
          held as images):
        captured_at = datetime.datetime.now(datetime.UTC)
        consistency = quiesce.stopped(request.guest, request.settings)
        with _served(request, images) as exported:
            yield export.Capture(exported, consistency, captured_at, 0.0)


@contextlib.contextmanager
def _snapshotted(request: capture_request.Request) -> Iterator[_Chain]:
    """Snapshot a disk on RBD, where QEMU locks no images."""
    source, snapshot = request.disk.source, request.snapshot
    assert source.rbd is not None and snapshot is not None
    with rbd.held(snapshot, request.notes.keep):
        yield (dataclasses.replace(source, rbd=snapshot.of(source.rbd)),)


@contextlib.contextmanager
def _of_active(request: capture_request.Request) -> Iterator[export.Capture]:
    """Export a copy of the disk of a domain, suspended while it is made.

    On every way out, the domain is running or paused as before, and thawed.
    """
    guest, place = request.guest, request.place
    assert request.power is not None
    job.refuse_others(guest)
    with (workspace.private(place, None, request.notes.keep),
          contextlib.ExitStack() as holding):
        hold, serve = _to_hold(request)
        watch = timeutils.StopWatch().start()
        # No limit: the guest is suspended while it is frozen, so its programs
        # do not notice how long.
        settings = dataclasses.replace(request.settings, freeze_timeout=0)
        with (quiesce.frozen(guest, settings, request.notes) as quiesced,
              suspend.suspended(guest, request.power, request.notes)):
            captured_at = datetime.datetime.now(datetime.UTC)
            images = holding.enter_context(hold)
            faultpoint.reach('copy.made')
        seconds = watch.elapsed()
        LOG.info('The guest was down for %.1f s', seconds,
                 instance=guest.instance)
        with serve(request, images) as exported:
            yield export.Capture(exported, quiesced.consistency, captured_at,
                                 seconds)


def _to_hold(request: capture_request.Request) -> tuple[_Hold, _Serve]:
    """Choose how to copy or snapshot the disk, and how to export that.

    :raises ScratchExhausted: there is no space for a copy
    """
    if request.snapshot is not None:
        return _snapshotted(request), _served
    # The XML of a running domain has the whole chain.
    images = (request.disk.source, *request.disk.backing)
    return copying.copied(request, images), _guarded


def _served(request: capture_request.Request, images: _Chain
            ) -> contextlib.AbstractContextManager[export.Export]:
    return server.serve(request.place, images, request.disk.target)


@contextlib.contextmanager
def _guarded(request: capture_request.Request,
             images: _Chain) -> Iterator[export.Export]:
    """Export a copy; delete it if the file system becomes full.

    A clone takes more and more space as the guest overwrites shared blocks.
    """
    with contextlib.ExitStack() as serving:
        exported = serving.enter_context(_served(request, images))

        def give_up() -> None:
            serving.close()
            os.unlink(request.place.copy)

        # The size of a clone includes the blocks that it shares.
        limits = dataclasses.replace(request.limits, limit=0)
        with scratch.guarded(dataclasses.replace(request, limits=limits),
                             give_up):
            yield exported

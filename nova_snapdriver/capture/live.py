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

"""The live path: a pull-mode backup job of libvirt.

QEMU exports the disk as it was when the job began, and copies to a scratch
file what the guest overwrites. Source: libvirt's "Backup XML format" and
virDomainBackupBegin.
"""

from collections.abc import Iterator
import contextlib
import datetime
import os

from lxml import etree
from oslo_utils import timeutils

from nova_snapdriver.capture import export
from nova_snapdriver.capture import job
from nova_snapdriver.capture import privsep
from nova_snapdriver.capture import quiesce
from nova_snapdriver.capture import readahead
from nova_snapdriver.capture import request as capture_request
from nova_snapdriver.capture import scratch
from nova_snapdriver.capture import space
from nova_snapdriver.capture import workspace
from nova_snapdriver import exception
from nova_snapdriver import faultpoint


def backup_xml(target: str, place: workspace.Workspace) -> str:
    """Build the domainbackup document for one disk.

    Nothing is left to libvirt's defaults: it would listen on TCP, back up all
    disks, and create the scratch file beside the disk.
    """
    backup = etree.Element('domainbackup', mode='pull')
    etree.SubElement(backup, 'server', transport='unix', socket=place.socket)
    disks = etree.SubElement(backup, 'disks')
    disk = etree.SubElement(disks, 'disk', name=target, backup='yes',
                            type='file')
    etree.SubElement(disk, 'driver', type='qcow2')
    etree.SubElement(disk, 'scratch', file=place.scratch)
    return str(etree.tostring(backup, encoding='unicode'))


@contextlib.contextmanager
def capture(request: capture_request.Request) -> Iterator[export.Capture]:
    """Capture the disk of a running or paused domain by a backup job.

    On every way out, the guest is thawed, the job ended and the workspace
    removed. The domain is never undefined.

    :raises QuiesceFailed: the image requires it, and the freeze failed
    :raises CaptureFailed: libvirt or QEMU refused, or the job does not end
    :raises DirectoryUnusable: the workspace cannot be created
    :raises ScratchExhausted: the guest overwrites more than there is space for
    """
    guest, place = request.guest, request.place
    # Before the freeze: libvirt waits for another job for half a minute before
    # it refuses a new one.
    job.refuse_others(guest)
    owner = guest.qemu_owner()
    uid = None if owner is None else owner[0]
    backup = job.BackupJob(guest, place.socket, request.notes.keep)
    with (workspace.private(place, uid, request.notes.keep),
          _may_end(request) as ahead):
        space.check(place, request.limits)
        with (scratch.guarded(request, backup.end, ahead) as guard, backup,
              guard.noted()):
            yield _begin(request, owner, ahead)


_MayEnd = contextlib.AbstractContextManager[readahead.ReadAhead | None]


def _may_end(request: capture_request.Request) -> _MayEnd:
    """Let the job end before the upload; ``None`` if the operator forbids."""
    if request.spool is None:
        return contextlib.nullcontext()
    return readahead.ReadAhead(request.spool)


def _begin(request: capture_request.Request, owner: tuple[int, int] | None,
           ahead: readahead.ReadAhead | None) -> export.Capture:
    target, place = request.disk.target, request.place
    watch = timeutils.StopWatch().start()
    with quiesce.frozen(request.guest, request.settings,
                        request.notes) as quiesced:
        try:
            request.guest.begin_backup(backup_xml(target, place))
        except exception.CaptureFailed as ex:
            raise _explained(ex, place, owner) from ex
        faultpoint.reach('live.begun')
        captured_at = datetime.datetime.now(datetime.UTC)
    freeze_seconds = watch.elapsed()
    _take_over(place.socket, owner)
    faultpoint.reach('live.socket-given')
    return export.Capture(export.Export(place.socket, target, ahead),
                          quiesced.consistency, captured_at, freeze_seconds)


def _explained(error: exception.CaptureFailed, place: workspace.Workspace,
               owner: tuple[int, int] | None) -> exception.SnapdriverError:
    """Say which directory QEMU cannot enter, if that explains an error."""
    if owner is None:
        return error
    barrier = workspace.unreachable(place.path, *owner)
    if barrier is None:
        return error
    return exception.DirectoryUnusable(
        reason='QEMU runs as user %d and may not enter %s' %
               (owner[0], barrier))


def _take_over(socket: str, owner: tuple[int, int] | None) -> None:
    """Own the socket, which QEMU's user created: to connect needs write."""
    if owner is not None and not os.access(socket, os.W_OK,
                                           effective_ids=True):
        privsep.give(socket, owner[0], os.geteuid())

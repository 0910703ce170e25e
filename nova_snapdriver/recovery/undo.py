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

"""After a crash: undo what an abandoned snapshot left, and nothing else."""

from collections.abc import Callable
import dataclasses
import functools
import os
import shutil
import types
from typing import Any

import libvirt
from nova import exception as nova_exception
from nova.storage import rbd_utils
from oslo_log import log as logging

from nova_snapdriver.capture import direct
from nova_snapdriver.capture import job
from nova_snapdriver.capture import quiesce
from nova_snapdriver.capture import rbd
from nova_snapdriver.capture import suspend
from nova_snapdriver.capture import workspace
from nova_snapdriver import exception
from nova_snapdriver import guest as snap_guest
from nova_snapdriver import journal
from nova_snapdriver.recovery import images

LOG = logging.getLogger(__name__)

# What a failing step raises; everything else is a bug, and logged as one.
_EXPECTED = (nova_exception.NovaException, libvirt.libvirtError, OSError)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What was done, or would be, for one abandoned snapshot.

    :param done: in words, in order
    :param failed: what is still to be done, in words
    """

    entry: journal.Entry
    done: tuple[str, ...]
    failed: tuple[str, ...]


class Recovery:
    """Undoes abandoned snapshots. Idempotent; a step never keeps another.

    :param host: Nova's :class:`nova.virt.libvirt.host.Host`
    :param agent_timeout: seconds
    :param dry_run: say what would be done, and do nothing
    """

    def __init__(self, host: Any, agent_timeout: int,
                 dry_run: bool = False) -> None:
        self._host = host
        self._agent_timeout = agent_timeout
        self._dry_run = dry_run

    def run(self, entries: journal.Journal) -> list[Outcome]:
        """Undo all that was abandoned; what failed stays in the journal."""
        outcomes = []
        for record in entries.abandoned():
            with record:
                # Kept until all is done, also by a crash of this one.
                outcome = self._undo(record)
                if outcome.failed or self._dry_run:
                    record.keep()
            _log(outcome)
            outcomes.append(outcome)
        return outcomes

    def _undo(self, record: journal.Record) -> Outcome:
        entry = record.entry
        done: list[str] = []
        failed: list[str] = []
        # First of all: the others are for a guest that runs.
        starting = (self._start_guest,) if record.suspended else ()
        image = functools.partial(self._remove_image, record)
        for step in (*starting, self._end_job, self._end_copy,
                     self._thaw_guest, self._remove_files, image,
                     self._remove_copy):
            try:
                done.extend(step(entry))
            except _EXPECTED as ex:
                failed.append(str(ex))
            except Exception as ex:
                LOG.exception('Recovery of image %s', entry.image)
                failed.append(repr(ex))
        return Outcome(entry, tuple(done), tuple(failed))

    def _start_guest(self, entry: journal.Entry) -> list[str]:
        """Have the guest back that the snapshot had suspended."""
        guest = self._defined(entry)
        if guest is None:
            return []
        if self._dry_run:
            return ['would start the guest, if it is suspended']
        if not suspend.bring_back(guest, guest.start):
            return []
        return ['started the guest from its saved memory']

    def _end_job(self, entry: journal.Entry) -> list[str]:
        guest = self._guest(entry)
        if guest is None:
            return []
        backup = job.BackupJob(guest, entry.socket)
        stopped = guest.stopped_by_io_error()
        if not backup.runs():
            return []
        self._unless_dry(backup.end)
        if not stopped:
            return ['ended its backup job']
        # It was our scratch file that QEMU had no room for.
        self._unless_dry(guest.resume)
        return ['ended its backup job', 'resumed the guest']

    def _end_copy(self, entry: journal.Entry) -> list[str]:
        guest = self._guest(entry)
        if guest is None:
            return []
        copy = job.BlockCopy(
            guest, workspace.Workspace(entry.workspace).overlay)
        if not copy.runs():
            return []
        self._unless_dry(copy.end)
        return ['ended its block copy']

    def _thaw_guest(self, entry: journal.Entry) -> list[str]:
        guest = self._guest(entry) if entry.thaw else None
        if guest is None or guest.agent_refusal() is not None:
            return []
        self._unless_dry(quiesce.thaw_alone, guest, self._agent_timeout)
        return ['thawed the guest']

    def _guest(self, entry: journal.Entry) -> snap_guest.Guest | None:
        """The domain; none if it is not there or does not run."""
        guest = self._defined(entry)
        return guest if guest is not None and guest.exists() else None

    def _defined(self, entry: journal.Entry) -> snap_guest.Guest | None:
        """The domain, running or not; none if it is not there."""
        instance = types.SimpleNamespace(uuid=entry.instance,
                                         name=entry.instance)
        try:
            return snap_guest.Guest(self._host.get_guest(instance), None)
        except nova_exception.InstanceNotFound:
            return None

    def _remove_files(self, entry: journal.Entry) -> list[str]:
        if not workspace.is_one(entry.workspace):
            raise exception.JournalUnusable(
                reason='%s is no directory of a snapshot' % entry.workspace)
        if not os.path.isdir(entry.workspace):
            return []
        self._unless_dry(shutil.rmtree, entry.workspace)
        return ['removed %s' % entry.workspace]

    def _remove_image(self, record: journal.Record,
                      entry: journal.Entry) -> list[str]:
        if self._dry_run:
            return ['would delete image %s, if it is unfinished' % entry.image]
        if images.delete_unfinished(record):
            return ['deleted image %s' % entry.image]
        return []

    def _remove_copy(self, entry: journal.Entry) -> list[str]:
        """Remove what is left in Ceph, unless it is an image.

        After the image: with one that refers to it, the copy is Glance's.
        """
        if not entry.snapshot:
            return []
        if self._dry_run:
            done = ['would remove %s' % entry.snapshot]
            if entry.clone:
                done.append('would remove %s, if no image is in it' %
                            entry.clone)
            return done
        driver = rbd_utils.RBDDriver()
        if not entry.clone or images.exists(entry.image):
            return rbd.remove(driver, entry.snapshot)
        return direct.remove(driver, entry.snapshot, entry.clone)

    def _unless_dry(self, action: Callable[..., object],
                    *arguments: object) -> None:
        if not self._dry_run:
            action(*arguments)


def _log(outcome: Outcome) -> None:
    LOG.warning('Snapshot %(image)s of instance %(instance)s was abandoned '
                'at %(path)s: %(done)s', {
                    'image': outcome.entry.image,
                    'instance': outcome.entry.instance,
                    'path': outcome.entry.path,
                    'done': '; '.join(outcome.done) or 'nothing to undo'})
    for failure in outcome.failed:
        LOG.error('Snapshot %(image)s could not be cleaned up, it is tried '
                  'again later or by "nova-snapdriver recover": '
                  '%(failure)s', {'image': outcome.entry.image,
                                  'failure': failure})

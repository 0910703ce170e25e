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

"""After a crash: undo what an abandoned snapshot left, and nothing else.

What the journal has noted is undone once, each step by itself, and its note
goes with it: an entry that stays for one step does not repeat another. A
guest is started only if Nova's database wants it to run here. Without the
database the rest is undone all the same: our own job, our own freeze, files.
"""

from collections.abc import Callable
import contextlib
import dataclasses
import os
import shutil
import types
from typing import Any

import libvirt
import nova.conf
from nova import exception as nova_exception
from nova.storage import rbd_utils
from oslo_log import log as logging

from nova_snapdriver.capture import direct
from nova_snapdriver.capture import job
from nova_snapdriver.capture import quiesce
from nova_snapdriver.capture import rbd
from nova_snapdriver.capture import suspend
from nova_snapdriver.capture import workspace
from nova_snapdriver import database
from nova_snapdriver import exception
from nova_snapdriver import guest as snap_guest
from nova_snapdriver import journal
from nova_snapdriver.recovery import images
from nova_snapdriver.transfer import rbd as snap_rbd
from nova_snapdriver import waiting

LOG = logging.getLogger(__name__)

# What a failing step raises; everything else is a bug, and logged as one.
_EXPECTED = (nova_exception.NovaException, libvirt.libvirtError, OSError)

# After a start of the guest or of libvirtd the agent's channel is connected a
# little later.
_AGENT_SECONDS = 15
_AGENT_POLL_SECONDS = 0.5

# In the place of a run: the guest was saved by hand, and the freeze with it.
_SAVED = 'saved'

_Step = Callable[[], list[str]]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What was done, or would be, for one abandoned snapshot.

    :param path: of :class:`nova_snapdriver.plan.Path`, as far as known
    :param done: in words, in order
    :param failed: what is still to be done, in words
    :param guest_waits: the guest is not yet what it was before
    """

    entry: journal.Entry
    path: str
    done: tuple[str, ...]
    failed: tuple[str, ...]
    guest_waits: bool = False


@dataclasses.dataclass(frozen=True)
class Tools:
    """What a recovery works with.

    :param host: Nova's :class:`nova.virt.libvirt.host.Host`
    :param launch: starts the domain of a server, by its UUID, with the CPUs
        that belong to it; says in words what that leaves to be done by hand
    :param attach: attaches the devices of the host that the domain lacks;
        says the same
    :param agent_timeout: seconds
    """

    host: Any
    launch: Callable[[str, snap_guest.Guest], list[str]]
    attach: Callable[[str, snap_guest.Guest], list[str]]
    agent_timeout: int


class Recovery:
    """Undoes abandoned snapshots. Idempotent; a step never keeps another.

    :param dry_run: say what would be done, and do nothing
    """

    def __init__(self, tools: Tools, dry_run: bool = False) -> None:
        self._tools = tools
        self._dry_run = dry_run
        # What is still to be done of each image, as it was logged last.
        self._told: dict[str, tuple[str, ...]] = {}

    def run(self, entries: journal.Journal) -> list[Outcome]:
        """Undo all that was abandoned; what failed stays in the journal.

        :raises JournalUnusable: the directory cannot be read
        """
        outcomes = []
        for record in entries.abandoned():
            with contextlib.closing(record):
                outcome = self._undo(record)
            self._log(outcome)
            outcomes.append(outcome)
        return outcomes

    def _log(self, outcome: Outcome) -> None:
        """Log what is new: what waits for something is tried many times."""
        image = outcome.entry.image
        if outcome.done or self._told.get(image) != outcome.failed:
            _log(outcome)
        self._told[image] = outcome.failed
        if not outcome.failed:
            del self._told[image]

    def _undoing(self, record: journal.Record) -> 'Undoing':
        return Undoing(record, self._tools, self._dry_run)

    def _undo(self, record: journal.Record) -> Outcome:
        undoing = self._undoing(record)
        done: list[str] = []
        failed: list[str] = []

        def attempt(step: _Step) -> None:
            try:
                done.extend(step())
            except _EXPECTED as ex:
                failed.append(str(ex))
            except Exception as ex:
                LOG.exception('Recovery of image %s', record.entry.image)
                failed.append(repr(ex))

        for step in undoing.steps():
            attempt(step)
        path, waits = _path(record), undoing.guest_waits()
        # Nothing else removes the entry: no Ctrl-C, no end of the process.
        if not failed and not self._dry_run:
            attempt(undoing.remove_entry)
        return Outcome(record.entry, path, tuple(done), tuple(failed), waits)


class Undoing:
    """The steps for one snapshot; each gives what it did, in words."""

    def __init__(self, record: journal.Record, tools: Tools,
                 dry_run: bool) -> None:
        self._record = record
        self._entry = record.entry
        self._tools = tools
        self._dry_run = dry_run

    def steps(self) -> tuple[_Step, ...]:
        """In order: a guest is started before it is thawed."""
        return (self._start_guest, self._attach_devices, self._end_job,
                self._resume_guest, self._end_copy, self._thaw_guest,
                self._remove_files, self._remove_image, self._remove_copy)

    def remove_entry(self) -> list[str]:
        """After all steps."""
        self._record.remove()
        return []

    def guest_waits(self) -> bool:
        """Whether the guest is not yet what it was before. Never raises."""
        try:
            return any(self._marked(mark) for mark in journal.Mark)
        except exception.JournalUnusable:
            return True

    # The guest, as the snapshot left it

    def _start_guest(self) -> list[str]:
        """Start the guest that the snapshot has suspended."""
        if not self._marked(journal.Mark.SUSPENDED):
            return []
        guest = self._defined()
        if guest is None:
            return self._leave(journal.Mark.SUSPENDED, 'it has no domain')
        if guest.exists() and not guest.is_being_saved():
            # Started by hand, or never saved.
            self._unless_dry(self._note_running, guest)
            return []
        refusal = database.why_not_running(
            self._entry.instance, self._entry.host, paused=True)
        if refusal is not None:
            return self._leave(journal.Mark.SUSPENDED, refusal)
        if self._dry_run:
            return ['would start the guest, if it is suspended']
        return self._bring_back(guest)

    def _bring_back(self, guest: snap_guest.Guest) -> list[str]:
        left: list[str] = []

        def launch() -> None:
            left.extend(self._tools.launch(self._entry.instance, guest))

        started = suspend.bring_back(guest, launch)
        self._note_running(guest)
        if not started:
            return []
        return ['started the guest from its saved memory', *left]

    def _note_running(self, guest: snap_guest.Guest) -> None:
        """Note that the guest is not to be started any more."""
        if self._marked(journal.Mark.FROZEN) and guest.exists():
            # First: its freeze goes on in this QEMU, from the saved memory.
            self._record.mark(journal.Mark.FROZEN, guest.run_id())
        # Who suspends it from now on has a reason.
        self._record.unmark(journal.Mark.SUSPENDED)

    def _attach_devices(self) -> list[str]:
        """Give the guest back the devices that its suspension has taken."""
        if (not self._marked(journal.Mark.DETACHED) or
                self._marked(journal.Mark.SUSPENDED)):
            return []                   # or it is not started yet
        guest = self._guest()
        left: list[str] = []
        # A guest that starts from now on gets its devices by that start.
        if guest is not None and database.why_not_running(
                self._entry.instance, self._entry.host, paused=True) is None:
            if self._dry_run:
                return ['would give the guest its devices, if it lacks any']
            left = self._tools.attach(self._entry.instance, guest)
        self._unless_dry(self._record.unmark, journal.Mark.DETACHED)
        return left

    def _end_job(self) -> list[str]:
        guest = self._guest()
        if guest is None:
            return []
        backup = job.BackupJob(guest, self._entry.socket)
        if not backup.runs():
            return []
        if guest.stopped_by_io_error():
            # QEMU had no room for our scratch file. If the disk itself is
            # full, QEMU tries the write again and pauses it again.
            self._unless_dry(self._record.mark, journal.Mark.PAUSED,
                             guest.run_id())
        self._unless_dry(backup.end)
        return ['ended its backup job']

    def _resume_guest(self) -> list[str]:
        """Resume the guest that QEMU has paused for want of room."""
        if not self._marked(journal.Mark.PAUSED):
            return []
        guest = self._same_run(journal.Mark.PAUSED)
        if guest is None or not guest.stopped_by_io_error():
            self._unless_dry(self._record.unmark, journal.Mark.PAUSED)
            return []
        refusal = self._why_not_resumed()
        if refusal is not None:
            return self._leave(journal.Mark.PAUSED, refusal)
        self._unless_dry(guest.resume)
        self._unless_dry(self._record.unmark, journal.Mark.PAUSED)
        return ['resumed the guest']

    def _why_not_resumed(self) -> str | None:
        """Why the guest must not be resumed; none if it may."""
        return database.why_not_running(
            self._entry.instance, self._entry.host, paused=False)

    def _end_copy(self) -> list[str]:
        guest = self._guest()
        if guest is None:
            return []
        copy = job.BlockCopy(
            guest, workspace.Workspace(self._entry.workspace).overlay)
        if not copy.runs():
            return []
        self._unless_dry(copy.end)
        return ['ended its block copy']

    def _thaw_guest(self) -> list[str]:
        """Thaw the guest that the snapshot has frozen."""
        if (not self._marked(journal.Mark.FROZEN) or
                self._marked(journal.Mark.SUSPENDED)):
            return []                   # or it is not started yet
        refusal = self._why_not_here()
        if refusal is not None:
            return self._leave(journal.Mark.FROZEN, refusal)
        guest = self._same_run(journal.Mark.FROZEN)
        if guest is None:
            return self._leave_frozen_run()
        if self._dry_run:
            return ['would thaw the guest']
        return self._thaw(guest)

    def _leave_frozen_run(self) -> list[str]:
        """The QEMU that was frozen has ended; but a save keeps the freeze.

        :raises ThawFailed: it is saved, and to be thawed once it runs again
        """
        guest = self._defined()
        if guest is None or guest.exists() or not guest.is_saved():
            return self._leave(journal.Mark.FROZEN,
                               'the QEMU that was frozen has ended')
        if self._dry_run:
            return ['would thaw the guest once it is resumed']
        self._record.mark(journal.Mark.FROZEN, _SAVED)
        raise exception.ThawFailed(domain=guest.name,
                                   reason='the guest is suspended')

    def _thaw(self, guest: snap_guest.Guest) -> list[str]:
        if not waiting.wait_until(lambda: guest.agent_refusal() is None,
                                  _AGENT_SECONDS, _AGENT_POLL_SECONDS):
            raise exception.ThawFailed(domain=guest.name,
                                       reason=guest.agent_refusal())
        try:
            quiesce.thaw_alone(guest, self._tools.agent_timeout)
        except exception.ThawUnsupported as ex:
            return self._leave(journal.Mark.FROZEN, str(ex))
        # Who dies here thaws twice, and with that a freeze of somebody else
        # in between: libvirt does not say whose a freeze is.
        self._record.unmark(journal.Mark.FROZEN)
        return ['thawed the guest']

    def _why_not_here(self) -> str | None:
        """Why this host must not touch the guest; none if it may.

        The freeze of a snapshot is undone without the database, too.
        """
        try:
            return database.why_not_here(self._entry.instance,
                                         self._entry.host)
        except Exception as ex:
            LOG.warning('Cannot ask for the server %(uuid)s: %(error)s',
                        {'uuid': self._entry.instance, 'error': ex})
            return None

    def _leave(self, mark: journal.Mark, reason: str) -> list[str]:
        """Leave the guest alone, for good."""
        self._unless_dry(self._record.unmark, mark)
        return ['left the guest as it is: %s' % reason]

    def _marked(self, mark: journal.Mark) -> bool:
        return self._record.marked(mark) is not None

    def _same_run(self, mark: journal.Mark) -> snap_guest.Guest | None:
        """The domain, if the QEMU that was marked still runs it."""
        guest = self._guest()
        if guest is None or self._record.marked(mark) not in (
                guest.run_id(), _SAVED):
            return None
        return guest

    def _guest(self) -> snap_guest.Guest | None:
        """The domain; none if it is not there or does not run."""
        guest = self._defined()
        return guest if guest is not None and guest.exists() else None

    def _defined(self) -> snap_guest.Guest | None:
        """The domain, running or not; none if it is not there."""
        uuid = self._entry.instance
        instance = types.SimpleNamespace(uuid=uuid, name=uuid)
        try:
            return snap_guest.Guest(self._tools.host.get_guest(instance),
                                    instance)
        except nova_exception.InstanceNotFound:
            return None

    # Files, and images

    def _remove_files(self) -> list[str]:
        path = self._entry.workspace
        if not workspace.is_one(path):
            raise exception.JournalUnusable(
                reason='%s is no directory of a snapshot' % path)
        try:
            os.lstat(path)
        except FileNotFoundError:
            return []                   # any other error says nothing of it
        self._unless_dry(shutil.rmtree, path)
        return ['removed %s' % path]

    def _remove_image(self) -> list[str]:
        if self._dry_run:
            return ['would delete image %s, if it is unfinished' %
                    self._entry.image]
        self._clear_progress()
        if self._record.gone:
            return []
        if self._delete_unfinished():
            # Glance's "not found" may say nothing to us the next time.
            self._record.note_gone()
            return ['deleted image %s' % self._entry.image]
        return []

    def _clear_progress(self) -> None:
        """Have Nova's API not show any more how far the upload was."""
        database.show_progress(self._entry.instance, self._entry.host, 0)

    def _delete_unfinished(self) -> bool:
        """Delete the image if it is unfinished; returns whether it was."""
        # Whose the server is now may change what becomes of its images: with
        # the database away, this waits.
        database.why_not_here(self._entry.instance, self._entry.host)
        return images.delete_unfinished(self._record)

    def _remove_copy(self) -> list[str]:
        """Remove what is left in Ceph, unless it is an image.

        After the image: with one that refers to it, the copy is Glance's.
        """
        planned = self._record.planned
        copies = [url for url in (planned.clone, planned.written) if url]
        if self._dry_run:
            return [*('would remove %s, if no image is in it' % url
                      for url in copies),
                    *('would remove %s' % url for url in planned.snapshots)]
        done = []
        # First: while it is not flattened, Ceph keeps the snapshot.
        if copies and (self._record.gone or not images.exists(self._entry)):
            done += self._remove_copies(planned)
        for url in planned.snapshots:
            done += rbd.remove(rbd_utils.RBDDriver(), url)
        return done

    def _remove_copies(self, planned: journal.Planned) -> list[str]:
        """Remove what no image refers to."""
        done = []
        if planned.clone:
            done += direct.remove_clone(rbd_utils.RBDDriver(), planned.clone)
        if planned.written:
            done += snap_rbd.remove(nova.conf.CONF, planned.written)
        return done

    def _unless_dry(self, action: Callable[..., object],
                    *arguments: object) -> None:
        if not self._dry_run:
            action(*arguments)


def _path(record: journal.Record) -> str:
    with contextlib.suppress(exception.JournalUnusable):
        return record.planned.path
    return ''


def _log(outcome: Outcome) -> None:
    LOG.warning('Snapshot %(image)s of instance %(instance)s was abandoned '
                'at %(path)s: %(done)s', {
                    'image': outcome.entry.image,
                    'instance': outcome.entry.instance,
                    'path': outcome.path or 'its beginning',
                    'done': '; '.join(outcome.done) or 'nothing to undo'})
    for failure in outcome.failed:
        LOG.error('Snapshot %(image)s could not be cleaned up, it is tried '
                  'again later or by "nova-snapdriver recover": '
                  '%(failure)s', {'image': outcome.entry.image,
                                  'failure': failure})

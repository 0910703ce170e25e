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

"""Take a snapshot of a domain that Nova need not know.

As the driver does, but for what is Nova's: no instance, no task state, no
database. A guest is never suspended for it.
"""

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import dataclasses
import functools
import platform
from typing import Any
from typing import Protocol

from nova_snapdriver.capture import chain
from nova_snapdriver.capture import copying
from nova_snapdriver.capture import export
from nova_snapdriver.capture import paths
from nova_snapdriver.capture import qemunbd
from nova_snapdriver.capture import quiesce
from nova_snapdriver.capture import readahead
from nova_snapdriver.capture import request as capture_request
from nova_snapdriver.capture import space
from nova_snapdriver.capture import workspace
from nova_snapdriver import exception
from nova_snapdriver import guest as snap_guest
from nova_snapdriver import host as snap_host
from nova_snapdriver import imagebackend
from nova_snapdriver import journal
from nova_snapdriver.local import interrupts
from nova_snapdriver.local import libvirtd
from nova_snapdriver import plan as snap_plan
from nova_snapdriver.recovery import earlier
from nova_snapdriver.transfer import cancel
from nova_snapdriver.transfer import description
from nova_snapdriver.transfer import destination
from nova_snapdriver.transfer import process
from nova_snapdriver.transfer import send

_JOB_SECONDS = 2


class Target(destination.Destination, Protocol):
    """Where the image goes: a file, or Glance.

    :ivar image_id: a UUID for the journal; of the image, if it is Glance's
    """

    image_id: str

    @property
    def place(self) -> dict[str, str]:
        """What the result says of it."""

    def held(self) -> contextlib.AbstractContextManager[None]:
        """Release what it holds, at the end of the block."""

    @property
    def target(self) -> str:
        """For :meth:`nova_snapdriver.journal.Record.note_target`."""

    def make(self) -> None:
        """Create it, without data, before the guest is touched."""

    def publish(self) -> None:
        """Let others use it: it is whole and verified."""

    def discard(self) -> None:
        """Remove it.

        :raises Exception: it may be left
        """


@dataclasses.dataclass(frozen=True)
class Way:
    """How a snapshot is taken."""

    plan: snap_plan.Plan
    guest: snap_guest.Guest
    disk: imagebackend.RootDisk
    settings: quiesce.Settings

    def data(self) -> int:
        """How much data the disk has at the most, in bytes."""
        capacity = self.guest.disk_size(self.disk.target).capacity
        if self.plan.path is snap_plan.Path.COLD:
            return copying.stored(chain.images(self.disk), capacity)
        return copying.stored((self.disk.source, *self.disk.backing),
                              capacity)


@dataclasses.dataclass(frozen=True)
class Wishes:
    """What is asked for.

    :param disk: device name in the domain; ``None`` for the first disk
    :param quiesce: freeze the guest or fail; not at all; ``None``: if it can
        be frozen
    :param method: auto, live or mirror, for a running guest
    """

    disk: str | None
    image_format: str
    quiesce: bool | None
    method: str


@dataclasses.dataclass(frozen=True)
class Result:
    """What came of a snapshot; sizes in bytes."""

    method: str
    consistency: str
    captured_at: str
    freeze_seconds: float
    size: int
    algorithm: str
    digest: str


def plan(host: libvirtd.Libvirt, name: str, wishes: Wishes,
         conf: Any) -> Way:
    """Look at a domain, and choose; touches nothing.

    :param conf: the options of ``[snapdriver]``, which are their defaults
    :raises DiskUnusable: there is no such domain or disk, or it cannot be read
    """
    guest = _guest(host, host.find(name))
    domain = guest.live_xml()
    disk = imagebackend.find_disk(domain, wishes.disk)
    if disk is None:
        raise exception.DiskUnusable(
            reason='domain %s has no disk %s' % (name, wishes.disk or ''))
    virt_type = domain.get('type')
    found = snap_host.Host(host).capabilities(virt_type)
    chosen = snap_plan.choose(snap_plan.Facts(
        virt_type=virt_type,
        power_state=guest.power_state(host),
        disk=disk,
        image_format=wishes.image_format,
        missing=found.missing,
        server_missing=found.server_missing,
        live_method=wishes.method,
        block_job=guest.has_block_job(disk),
        not_held='a disk on RBD is read only while its guest runs'
        if disk.source.rbd else None))
    if chosen.path not in paths.CAPTURES:
        raise exception.DiskUnusable(reason=chosen.reason)
    return Way(chosen, guest, disk, _settings(conf, guest, wishes))


def _guest(host: libvirtd.Libvirt,
           domain: libvirtd.Domain) -> snap_guest.Guest:
    find = functools.partial(host.get_guest, domain)
    return snap_guest.Guest(domain, domain, find)


def _settings(conf: Any, guest: snap_guest.Guest,
              wishes: Wishes) -> quiesce.Settings:
    wanted = wishes.quiesce
    if wanted is None:
        wanted = guest.exists() and guest.agent_refusal() is None
    return quiesce.Settings(
        agent_timeout=conf.snapdriver.agent_timeout, has_agent=wanted,
        require_quiesce=wishes.quiesce is True,
        freeze_timeout=conf.snapdriver.freeze_timeout)


@dataclasses.dataclass(frozen=True)
class Task:
    """One snapshot: of what, into what.

    :param packing: how to compress the image
    :param algorithm: of the hash of the image
    :param progress: called with the bytes sent and the length of the image
    """

    way: Way
    wishes: Wishes
    target: Target
    packing: process.Compression
    algorithm: str
    progress: Callable[[int, int], None]
    interrupts: interrupts.Interrupts


def take(task: Task, entries: journal.Journal, conf: Any) -> Result:
    """Take the snapshot. On every way out, the guest is as it was.

    :raises SnapdriverError: it failed, and nothing is left, or an entry in
        the journal
    :raises Cancelled: it was interrupted, and nothing is left
    """
    place = workspace.locate(conf.snapdriver.scratch_directory)
    workspace.check(place)
    earlier.refuse(entries, task.way.guest.instance.uuid)
    with entries.begin(_entry(task, entries.host, place)) as record:
        record.note_planned(journal.Planned(str(task.way.plan.path)))
        with _discarding(task, record):
            record.note_target(task.target.target)
            task.target.make()
            task.interrupts.check()
            with _capture(task, place, record, conf) as captured:
                length = _send(task, captured, record, conf)
            task.interrupts.check()
            task.target.publish()
        return _result(task, captured, record, length)


def _entry(task: Task, host: str, place: workspace.Workspace
           ) -> journal.Entry:
    return journal.Entry(host, task.way.guest.instance.uuid,
                         task.target.image_id, place.path, place.socket,
                         journal.now())


@contextlib.contextmanager
def _discarding(task: Task, record: journal.Record) -> Iterator[None]:
    """Remove the image of a snapshot that fails, now or by a recovery."""
    try:
        yield
    except Exception as ex:
        try:
            task.target.discard()
        except Exception:
            record.keep()
            raise
        cause = task.interrupts.cause()
        if cause is not None:
            # Ctrl-C also ends the child processes.
            raise cause from ex
        raise


def _capture(task: Task, place: workspace.Workspace, record: journal.Record,
             conf: Any) -> paths.Capturing:
    way = task.way
    return paths.CAPTURES[way.plan.path](capture_request.Request(
        way.guest, way.disk, way.settings, place, record, space.limits(conf),
        spool=readahead.spool(conf, place.path),
        check=task.interrupts.check))


def _send(task: Task, captured: export.Capture, record: journal.Record,
          conf: Any) -> int:
    request = process.Request(captured.export, task.wishes.image_format,
                              task.algorithm, task.packing)
    settings = send.Settings(True, conf.snapdriver.progress_interval,
                             task.progress)
    labels = description.labels(task.way.plan.path, captured)
    with _watch(task, captured.export) as ends:
        return send.send(task.target, labels, request, record, settings,
                         ends)


def _watch(task: Task, source: export.Export) -> cancel.Watch:
    """Watch what a snapshot needs, while it is sent."""
    causes = [cancel.Cause(task.interrupts.cause)]
    if task.way.plan.path is snap_plan.Path.LIVE:
        causes.append(cancel.Cause(
            functools.partial(_job, task.way.guest, source), _JOB_SECONDS))
    return cancel.Watch(causes, functools.partial(qemunbd.is_gone, source))


def _job(guest: snap_guest.Guest, source: export.Export) -> Exception | None:
    if guest.backup_socket() == source.socket or source.ended_early:
        return None
    return exception.Cancelled(
        reason='the guest was stopped, or its backup job was ended')


def _result(task: Task, captured: export.Capture, record: journal.Record,
            length: int) -> Result:
    whole = record.whole
    assert whole is not None
    return Result(
        str(task.way.plan.path), str(captured.consistency),
        captured.captured_at.isoformat(timespec='milliseconds'),
        round(captured.freeze_seconds, 3), length, str(whole.algorithm),
        str(whole.digest))


def entries_of(directory: str) -> journal.Journal:
    """The journal of snapshots without Nova."""
    return journal.Journal(directory, platform.node())

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

"""A libvirt domain: the calls that a snapshot makes.

A thin wrapper around Nova's own ``Guest``. All oddities of libvirt are
translated here.
"""

import collections
from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import dataclasses
import enum
import pathlib
from typing import Any

import libvirt
from lxml import etree
from nova import exception as nova_exception
from oslo_log import log as logging

from nova_snapdriver import exception
from nova_snapdriver import imagebackend
from nova_snapdriver import libvirterror
from nova_snapdriver import waiting

LOG = logging.getLogger(__name__)

_AGENT_CHANNEL = 'org.qemu.guest_agent.0'

# Of this boot of the host, to tell libvirt's numbers of domains apart.
_BOOT_ID = pathlib.Path('/proc/sys/kernel/random/boot_id')

# How long libvirtd may be away. A restart takes one to five seconds, more
# with hundreds of domains to reconnect to. Rather long than short: a guest may
# be frozen meanwhile, and only libvirtd can thaw it.
_RETURN_SECONDS = 60
_RETURN_POLL_SECONDS = 0.5

Find = Callable[[], Any]


class AgentError(Exception):
    """The guest agent failed, or did not answer in time."""


class FreezeUnsupported(AgentError):
    """The agent has no freeze and thaw, or they are switched off."""


class GuestGone(AgentError):
    """The domain no longer exists, or no longer runs."""


class BlockJobEvent(enum.Enum):
    """What libvirt's event says about a block job."""

    READY = 'ready'
    ENDED = 'ended'
    FAILED = 'failed'


@dataclasses.dataclass(frozen=True)
class Copying:
    """Progress of a block job, in bytes; 0 of 0 while QEMU prepares it."""

    done: int
    length: int


@dataclasses.dataclass(frozen=True)
class DiskSize:
    """Sizes in bytes: what the guest sees, and what the host stores."""

    capacity: int
    allocation: int


class Guest:
    """A domain that survives a restart of libvirtd.

    A handle of libvirt becomes invalid when libvirtd ends; the domain keeps
    running. So the domain is looked up again on a new connection, and calls
    that may be made twice are repeated.

    :param guest: Nova's :class:`nova.virt.libvirt.guest.Guest`
    :param instance: Nova's instance object, for the log
    :param find: looks Nova's guest up again, on a new connection if the old
        one broke. Without it, a broken connection is an error.
    """

    def __init__(self, guest: Any, instance: Any,
                 find: Find | None = None) -> None:
        self._guest = guest
        self._find = find
        self.instance = instance
        self.name: str = guest.name

    @property
    def _domain(self) -> Any:
        return self._guest._domain

    def _call(self, method: str, *arguments: object) -> Any:
        """Call libvirt, a second time if libvirtd went away meanwhile.

        Not for a call that must not be made twice: the first one may have
        succeeded before the connection broke.
        """
        try:
            return getattr(self._domain, method)(*arguments)
        except libvirt.libvirtError as ex:
            if self._find is None or not libvirterror.is_broken(ex):
                raise
            LOG.warning('The connection to libvirt broke (%s), waiting for '
                        'another', ex, instance=self.instance)
            self._find_again(ex)
        return getattr(self._domain, method)(*arguments)

    def _find_again(self, broke: libvirt.libvirtError) -> None:
        """Wait for libvirtd, and look the domain up again.

        :raises libvirt.libvirtError: libvirtd does not come back
        """
        if not waiting.wait_until(self._found, _RETURN_SECONDS,
                                  _RETURN_POLL_SECONDS):
            raise broke

    def _found(self) -> bool:
        assert self._find is not None
        try:
            self._guest = self._find()
        except nova_exception.InstanceNotFound:
            pass                # the repeated call raises it again
        except (nova_exception.NovaException, libvirt.libvirtError):
            return False
        return True

    def run_id(self) -> str:
        """Tell one run of the domain, one QEMU process, from any other.

        :raises nova.exception.InstanceNotFound: the domain is gone
        """
        return '%s %s' % (_BOOT_ID.read_text().strip(),
                          self.live_xml().get('id', 'stopped'))

    def live_xml(self) -> etree._Element:
        """The parsed XML of the domain as it runs now.

        :raises nova.exception.InstanceNotFound: the domain no longer exists
        """
        with self._translated('read the XML of the domain'):
            return imagebackend.parse(self._call('XMLDesc', 0))

    def power_state(self, host: Any) -> int:
        """The state of the domain, from :mod:`nova.compute.power_state`.

        :param host: Nova's :class:`nova.virt.libvirt.host.Host`
        """
        return int(self._guest.get_power_state(host))

    def exists(self) -> bool:
        """Whether the domain runs.

        :raises CaptureFailed: libvirt does not answer
        """
        try:
            with self._translated('ask whether the domain runs'):
                return bool(self._call('isActive'))
        except nova_exception.InstanceNotFound:
            return False

    def qemu_owner(self) -> tuple[int, int] | None:
        """User and group ID of the domain's QEMU process.

        ``None`` if libvirt does not set them: QEMU then runs as the user that
        libvirtd runs as.
        """
        label = self.live_xml().findtext("seclabel[@model='dac']/label")
        if not label:
            return None
        uid, gid = label.replace('+', '').split(':')
        return int(uid), int(gid)

    def stopped_by_io_error(self) -> bool:
        """Whether QEMU paused the guest because a disk failed or was full."""
        state, reason = self._state()
        return bool(state == libvirt.VIR_DOMAIN_PAUSED and
                    reason == libvirt.VIR_DOMAIN_PAUSED_IOERROR)

    def _state(self) -> tuple[int, int]:
        with self._translated('ask for the state of the domain'):
            state, reason = self._call('state')
        return state, reason

    def resume(self) -> None:
        """Resume a paused guest.

        :raises CaptureFailed: libvirt refused
        """
        with self._translated('resume the domain'):
            self._call('resume')

    # The agent

    def agent_refusal(self) -> str | None:
        """Why the agent cannot be used; ``None`` if it can.

        Libvirt knows from QEMU whether a program in the guest has opened the
        channel. If not, an agent command would only run into its timeout.
        """
        if self._state()[0] != libvirt.VIR_DOMAIN_RUNNING:
            return 'the guest does not run'
        channel = self.live_xml().find(
            "devices/channel/target[@name='%s']" % _AGENT_CHANNEL)
        if channel is None:
            return 'the domain has no channel for a guest agent'
        if channel.get('state') != 'connected':
            return 'no agent runs in the guest'
        return None

    def set_agent_timeout(self, seconds: int) -> None:
        """Limit how long libvirt waits for each answer of the agent."""
        with self._agent():
            self._call('agentSetResponseTimeout', seconds, 0)

    def reset_agent_timeout(self) -> None:
        """Restore libvirt's default agent timeout. Never raises."""
        with contextlib.suppress(AgentError), self._agent():
            self._call(
                'agentSetResponseTimeout',
                libvirt.VIR_DOMAIN_AGENT_RESPONSE_TIMEOUT_BLOCK, 0)

    def freeze(self) -> int:
        """Freeze the guest's file systems.

        :returns: how many were frozen
        :raises AgentError: it failed or timed out; some may be frozen
        """
        with self._agent():
            return int(self._domain.fsFreeze())

    def thaw(self) -> int | None:
        """Thaw the guest's file systems; no error if they are not frozen.

        :returns: how many were thawed; ``None`` if an answer was lost
        :raises AgentError: it failed or timed out
        :raises GuestGone: the domain no longer runs
        """
        with self._agent():
            before = self._guest
            count = int(self._call('fsThaw'))
            # Called again after libvirtd was away: the first call may have
            # thawed them.
            return count if self._guest is before else None

    @contextlib.contextmanager
    def _agent(self) -> Iterator[None]:
        try:
            yield
        except libvirt.libvirtError as ex:
            # A stopped domain answers "operation invalid" to agent commands.
            if libvirterror.is_gone(ex) or not self._active():
                raise GuestGone(str(ex)) from ex
            if libvirterror.is_unsupported(ex):
                raise FreezeUnsupported(str(ex)) from ex
            raise AgentError(str(ex)) from ex

    def _active(self) -> bool:
        """Whether the domain runs; true if libvirt does not answer."""
        try:
            return bool(self._call('isActive'))
        except libvirt.libvirtError as ex:
            return not libvirterror.is_gone(ex)

    # Managed save

    def is_saved(self) -> bool:
        """Whether the domain has a managed save image to start from.

        :raises nova.exception.InstanceNotFound: the domain no longer exists
        """
        with self._translated('ask for a managed save image of the domain'):
            return bool(self._call('hasManagedSaveImage', 0))

    def is_being_saved(self) -> bool:
        """Whether libvirt is saving the domain's memory now.

        :raises CaptureFailed: libvirt does not answer
        """
        try:
            job = self._call('jobStats', 0)
        except libvirt.libvirtError as ex:
            if ex.get_error_code() == libvirt.VIR_ERR_OPERATION_INVALID:
                return False            # it has just stopped
            raise exception.CaptureFailed(
                reason='cannot ask for jobs of the domain: %s' % ex) from ex
        return bool(job.get('type') and job.get('operation') ==
                    libvirt.VIR_DOMAIN_JOB_OPERATION_SAVE)

    def start(self) -> None:
        """Start the domain, from its managed save image if it has one.

        :raises CaptureFailed: libvirt refused
        """
        with self._translated('start the domain'):
            self._domain.create()

    # The backup job

    def has_job(self) -> bool:
        """Whether a job (backup, save, migration, …) runs on the domain.

        :raises nova.exception.InstanceNotFound: the domain no longer exists
        """
        with self._translated('ask for jobs of the domain'):
            return bool(self._call('jobInfo')[0] !=
                        libvirt.VIR_DOMAIN_JOB_NONE)

    def begin_backup(self, xml: str) -> None:
        """Begin a backup job.

        :param xml: a domainbackup document
        :raises CaptureFailed: libvirt or QEMU refused it
        :raises nova.exception.InstanceNotFound: the domain does not exist
        """
        with self._translated('begin the backup job'):
            self._domain.backupBegin(xml, None, 0)

    def backup_socket(self) -> str | None:
        """The socket of the running backup job; ``None`` without a job.

        :raises CaptureFailed: libvirt does not answer
        """
        try:
            xml = self._call('backupGetXMLDesc', 0)
        except libvirt.libvirtError as ex:
            if (libvirterror.is_gone(ex) or
                    ex.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN_BACKUP):
                return None
            raise exception.CaptureFailed(
                reason='cannot ask for the backup job: %s' % ex) from ex
        server = imagebackend.parse(xml).find('server')
        # A job of another client may listen on TCP.
        return '' if server is None else server.get('socket', '')

    def abort_job(self) -> None:
        """Ask libvirt to abort the domain's job. It ends a little later.

        No error without a job: it ended by itself, or was aborted before the
        connection broke.

        :raises CaptureFailed: libvirt refused
        """
        with self._translated('end the backup job'):
            try:
                self._call('abortJob')
            except libvirt.libvirtError as ex:
                if ex.get_error_code() != libvirt.VIR_ERR_OPERATION_INVALID:
                    raise

    # The block job

    def disk_size(self, target: str) -> DiskSize:
        """:raises CaptureFailed: libvirt does not answer"""
        with self._translated('ask for the size of disk %s' % target):
            capacity, allocation, _ = self._domain.blockInfo(target, 0)
        return DiskSize(capacity, allocation)

    def block_job(self, target: str) -> Copying | None:
        """The block job of a disk, of any client; ``None`` without one.

        :raises CaptureFailed: libvirt does not answer, or the domain stopped
        """
        with self._translated('ask for the block job of disk %s' % target):
            info = self._domain.blockJobInfo(target, 0)
        if not info:
            return None
        if info['end'] <= 1:
            # Libvirt does not know the length yet.
            return Copying(0, 0)
        return Copying(info['cur'], info['end'])

    def has_block_job(self, disk: imagebackend.RootDisk | None) -> bool:
        """Whether a block job runs on a disk of a running domain."""
        return bool(disk is not None and self._active() and
                    self.block_job(disk.target) is not None)

    def copied_disk(self, path: str) -> str | None:
        """The target (vda) of the disk that a block job copies to a file.

        :returns: ``None`` if no job does

        :raises CaptureFailed: libvirt does not answer
        """
        disk = self._copied(path)
        return None if disk is None else str(disk.find('target').get('dev'))

    def copy_is_ready(self, path: str) -> bool:
        """Whether the copy to a file is complete, and follows the disk.

        :raises CaptureFailed: libvirt does not answer
        """
        disk = self._copied(path)
        return disk is not None and disk.find('mirror').get('ready') == 'yes'

    def _copied(self, path: str) -> etree._Element | None:
        try:
            domain = self.live_xml()
        except nova_exception.InstanceNotFound:
            return None
        for disk in domain.iterfind('devices/disk'):
            source = disk.find('mirror/source')
            if source is not None and source.get('file') == path:
                return disk
        return None

    def begin_copy(self, target: str, xml: str) -> None:
        """Begin a shallow block copy: without the data of the backing file.

        The job is transient, so libvirt allows it for a persistent domain.

        :param xml: a disk element for a file that exists
        :raises CaptureFailed: libvirt or QEMU refused it
        :raises nova.exception.InstanceNotFound: the domain does not exist
        """
        with self._translated('begin to copy disk %s' % target):
            self._domain.blockCopy(
                target, xml, None,
                libvirt.VIR_DOMAIN_BLOCK_COPY_SHALLOW |
                libvirt.VIR_DOMAIN_BLOCK_COPY_REUSE_EXT |
                libvirt.VIR_DOMAIN_BLOCK_COPY_TRANSIENT_JOB)

    def end_copy(self, target: str) -> None:
        """Abort the block job of a disk, so that the disk keeps its image.

        Returns when the job has ended. If the copy followed the disk by then,
        it holds what the disk held at one instant during this call: QEMU
        drains the guest's requests and copies the last of them.

        :raises CaptureFailed: libvirt refused, or no job runs
        """
        with self._translated('end the block job of disk %s' % target):
            self._domain.blockJobAbort(target, 0)

    @contextlib.contextmanager
    def block_job_events(
            self, target: str) -> Iterator[collections.deque[BlockJobEvent]]:
        """Collect libvirt's events for the block jobs of a disk.

        Libvirt calls back from a native thread. Under eventlet, such a thread
        must not share locks of :mod:`threading` with green ones. Appending to
        a deque takes no lock; the waiting thread polls it.

        :raises CaptureFailed: libvirt refuses to send events
        """
        events: collections.deque[BlockJobEvent] = collections.deque()
        names = {libvirt.VIR_DOMAIN_BLOCK_JOB_READY: BlockJobEvent.READY,
                 libvirt.VIR_DOMAIN_BLOCK_JOB_FAILED: BlockJobEvent.FAILED}

        def note(connection: Any, domain: Any, disk: str, kind: int,
                 status: int, opaque: None) -> None:
            if disk == target:
                events.append(names.get(status, BlockJobEvent.ENDED))

        with self._translated('listen to events of the domain'):
            connection = self._domain.connect()
            number = connection.domainEventRegisterAny(
                self._domain, libvirt.VIR_DOMAIN_EVENT_ID_BLOCK_JOB_2, note,
                None)
        try:
            yield events
        finally:
            # On a broken connection there is nothing to deregister.
            with contextlib.suppress(libvirt.libvirtError):
                connection.domainEventDeregisterAny(number)

    @contextlib.contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        try:
            yield
        except libvirt.libvirtError as ex:
            if libvirterror.is_gone(ex):
                raise nova_exception.InstanceNotFound(
                    instance_id=self.instance.uuid) from ex
            raise exception.CaptureFailed(
                reason='cannot %s: %s' % (what, ex)) from ex

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

"""QEMU's jobs for a capture: begun by it, and ended with it."""

import abc
from collections.abc import Callable
import types
from typing import Self

from oslo_log import log as logging

from nova_snapdriver import exception
from nova_snapdriver import faultpoint
from nova_snapdriver import guest as snap_guest
from nova_snapdriver import waiting

LOG = logging.getLogger(__name__)

# Ending a job takes milliseconds; a busy disk can make it seconds.
_END_SECONDS = 60
_END_POLL_SECONDS = 0.02


def refuse_others(guest: snap_guest.Guest) -> None:
    """Check that no job runs on a domain, before anything is done to it.

    :raises CaptureFailed: one does
    """
    if guest.has_job():
        raise exception.CaptureFailed(
            reason='another job (a backup, a migration, a save) holds the '
                   'domain; try again when it is done')


class Job(abc.ABC):
    """A context manager that ends one job, if it runs.

    Libvirt is asked whether it runs: a call to begin it may have succeeded
    although it raised (the connection broke before the answer came).

    :param on_leftover: called when the job could not be ended
    """

    def __init__(self, guest: snap_guest.Guest,
                 on_leftover: Callable[[], None] = lambda: None) -> None:
        self._guest = guest
        self._on_leftover = on_leftover

    def __enter__(self) -> Self:
        return self

    def __exit__(self, exc_type: type[BaseException] | None,
                 exc: BaseException | None,
                 traceback: types.TracebackType | None) -> None:
        try:
            self.end()
        except Exception as ex:
            # A recovery ends it. The snapshot is what it is by now.
            self._on_leftover()
            LOG.error('%s', ex, instance=self._guest.instance)

    def end(self) -> None:
        """End the job if it runs, and wait for its end. Idempotent.

        A job ends with its domain, too.

        :raises CaptureFailed: it does not end, or libvirt refused
        """
        faultpoint.reach('job.ending')
        if self.runs():
            self._abort()
        if not waiting.wait_until(lambda: not self.runs(), _END_SECONDS,
                                  _END_POLL_SECONDS):
            raise exception.CaptureFailed(reason=self._endless())
        faultpoint.reach('job.ended')

    @abc.abstractmethod
    def runs(self) -> bool:
        """:raises CaptureFailed: libvirt does not answer"""

    @abc.abstractmethod
    def _abort(self) -> None:
        """:raises CaptureFailed: libvirt refused"""

    @abc.abstractmethod
    def _endless(self) -> str:
        """The error for a job that does not end, with what to do."""


class BackupJob(Job):
    """The backup job of a live snapshot, known by its socket.

    :param socket: path of the socket; a job with another one is left alone
    :param on_leftover: called when the job could not be ended
    """

    def __init__(self, guest: snap_guest.Guest, socket: str,
                 on_leftover: Callable[[], None] = lambda: None) -> None:
        super().__init__(guest, on_leftover)
        self._socket = socket

    def runs(self) -> bool:
        return self._guest.backup_socket() == self._socket

    def _abort(self) -> None:
        self._guest.abort_job()

    def _endless(self) -> str:
        return ('the backup job of domain %s does not end; run '
                '"virsh domjobabort %s" on its host' %
                (self._guest.name, self._guest.name))


class BlockCopy(Job):
    """The block job of a mirror, known by the file that it copies to.

    :param overlay: path of the file
    :param on_leftover: called when the job could not be ended
    """

    def __init__(self, guest: snap_guest.Guest, overlay: str,
                 on_leftover: Callable[[], None] = lambda: None) -> None:
        super().__init__(guest, on_leftover)
        self._overlay = overlay

    def runs(self) -> bool:
        return self._guest.copied_disk(self._overlay) is not None

    def _abort(self) -> None:
        target = self._guest.copied_disk(self._overlay)
        if target is not None:
            self._guest.end_copy(target)

    def _endless(self) -> str:
        return ('the block job of domain %s that copies to %s does not end; '
                'run "virsh blockjob %s DISK --abort" on its host' %
                (self._guest.name, self._overlay, self._guest.name))

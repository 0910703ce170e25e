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

"""Suspend a running guest while its disk is copied, then resume it.

By Nova's own suspend, which detaches passed-through devices (PCI, SR-IOV,
mediated ones) before and attaches them after. The memory is in libvirt's
managed save image, so any start of the domain, even by an operator's "virsh
start", resumes the guest.
"""

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import dataclasses

import libvirt
from nova import exception as nova_exception
from oslo_log import log as logging

from nova_snapdriver import exception
from nova_snapdriver import faultpoint
from nova_snapdriver import guest as snap_guest
from nova_snapdriver import journal
from nova_snapdriver import waiting

LOG = logging.getLogger(__name__)

# The errors of Nova's calls, which pass libvirt's on.
_ERRORS = (nova_exception.NovaException, libvirt.libvirtError)

_ATTEMPTS = 5
_PAUSE_SECONDS = 2

# How long an aborted save may take to end.
_SAVE_SECONDS = 60
_SAVE_POLL_SECONDS = 0.1


@dataclasses.dataclass(frozen=True)
class Power:
    """Nova's functions to suspend and resume one guest.

    :param suspend: detaches passed-through devices, and saves the domain
    :param launch: starts the domain, from its managed save image if it has one
    :param attach: attaches the passed-through devices that it lacks
    """

    suspend: Callable[[], None]
    launch: Callable[[], None]
    attach: Callable[[], None]


@contextlib.contextmanager
def suspended(guest: snap_guest.Guest, power: Power,
              notes: journal.Notes) -> Iterator[None]:
    """Suspend a guest, and resume it at the end.

    A guest that was paused is paused again: its managed save image says so.

    :param notes: that it is suspended is noted before, until it runs again,
        and that it lacks devices, until it has them
    :raises CaptureFailed: it cannot be suspended, and is as it was
    :raises ResumeFailed: it cannot be resumed
    :raises DevicesMissing: it was resumed, without all of its devices
    :raises nova.exception.InstanceNotFound: it was deleted meanwhile
    """
    notes.mark(journal.Mark.DETACHED)
    notes.mark(journal.Mark.SUSPENDED)
    faultpoint.reach('suspend.noted')
    try:
        _suspend(guest, power)
        faultpoint.reach('suspend.saved')
        yield
    except BaseException:
        _resume_after_failure(guest, power, notes)
        raise
    _resume(guest, power, notes)


def _suspend(guest: snap_guest.Guest, power: Power) -> None:
    try:
        power.suspend()
    except nova_exception.InstanceNotFound:
        raise
    except _ERRORS as ex:
        raise exception.CaptureFailed(
            reason='the guest cannot be suspended: %s' %
                   getattr(ex, 'inner_exception', ex)) from ex
    if guest.exists():
        raise exception.CaptureFailed(
            reason='the guest was suspended, and was started again by '
                   'another client of libvirt')


def _resume_after_failure(guest: snap_guest.Guest, power: Power,
                          notes: journal.Notes) -> None:
    """Resume the guest; the first error is raised, and another one logged."""
    try:
        _resume(guest, power, notes)
    except Exception as ex:
        LOG.error('%s', ex, instance=guest.instance)


def _resume(guest: snap_guest.Guest, power: Power,
            notes: journal.Notes) -> None:
    faultpoint.reach('resume.begun')
    try:
        started = _started(guest, power)
    except nova_exception.InstanceNotFound:
        raise
    except BaseException:
        notes.keep()
        raise
    faultpoint.reach('resume.started')
    if notes.marked(journal.Mark.FROZEN) is not None:
        # It goes on in another QEMU process.
        notes.mark(journal.Mark.FROZEN, guest.run_id())
    notes.unmark(journal.Mark.SUSPENDED)
    faultpoint.reach('resume.noted')
    try:
        power.attach()
    except _ERRORS as ex:
        # It is told, and not tried again.
        notes.unmark(journal.Mark.DETACHED)
        error = exception.DevicesMissing(reason=ex)
        if started:
            raise error from ex
        # The guest had not been suspended, and that error is raised.
        LOG.warning('%s', error, instance=guest.instance)
    else:
        notes.unmark(journal.Mark.DETACHED)


def _started(guest: snap_guest.Guest, power: Power) -> bool:
    """Resume the guest, in several attempts.

    :returns: whether there was anything to resume
    :raises ResumeFailed: it does not start
    """
    try:
        return waiting.retry(
            lambda: bring_back(guest, power.launch), 'Resuming the guest',
            guest.instance, errors=_ERRORS,
            final=(nova_exception.InstanceNotFound,), attempts=_ATTEMPTS,
            pause=_PAUSE_SECONDS)
    except nova_exception.InstanceNotFound:
        raise
    except _ERRORS as ex:
        raise exception.ResumeFailed(domain=guest.name, reason=ex) from ex


def bring_back(guest: snap_guest.Guest, launch: Callable[[], None]) -> bool:
    """Resume a guest that was suspended, or is just being suspended.

    A domain that is shut off without a managed save image was not stopped by a
    suspend, and stays shut off.

    :param launch: starts the domain
    :returns: whether there was anything to resume
    :raises CaptureFailed: its save was aborted and does not end
    """
    aborted = _abort_save(guest)
    if guest.exists():
        return aborted
    if not guest.is_saved():
        return False
    launch()
    return True


def _abort_save(guest: snap_guest.Guest) -> bool:
    """Abort the save of a guest's memory, if one runs, and wait for its end.

    The guest then continues, or was already saved and has stopped.

    :returns: whether a save ran
    :raises CaptureFailed: it does not end
    """
    aborted = False

    def ended() -> bool:
        nonlocal aborted
        if not guest.exists() or not guest.is_being_saved():
            return True
        guest.abort_job()
        aborted = True
        return False

    if not waiting.wait_until(ended, _SAVE_SECONDS, _SAVE_POLL_SECONDS):
        raise exception.CaptureFailed(
            reason='the memory of domain %s is still being saved' % guest.name)
    return aborted

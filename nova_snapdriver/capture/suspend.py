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

"""A guest that runs, stopped for a moment with its memory saved.

By Nova's own suspend, so that devices of the host (PCI, SR-IOV, mediated
ones) are taken from the guest before and given back after, as in Nova. The
memory image is libvirt's managed save: whoever starts the domain, and be it
an operator by hand, starts it from there.
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
from nova_snapdriver import waiting

LOG = logging.getLogger(__name__)

# What Nova's own calls raise.
_ERRORS = (nova_exception.NovaException, libvirt.libvirtError)

_ATTEMPTS = 5
_PAUSE_SECONDS = 2

# How long a save that is given up may take to end.
_SAVE_SECONDS = 60
_SAVE_POLL_SECONDS = 0.1


@dataclasses.dataclass(frozen=True)
class Power:
    """Nova's ways to stop a guest for a moment, and to have it back.

    :param suspend: takes away the host's devices, saves the memory and stops
    :param launch: starts the domain, from its memory if that is saved
    :param attach: gives the host's devices back
    :param note: told, before and after, whether the guest is down for us; a
        recovery then knows
    """

    suspend: Callable[[], None]
    launch: Callable[[], None]
    attach: Callable[[], None]
    note: Callable[[bool], None]


@contextlib.contextmanager
def suspended(guest: snap_guest.Guest, power: Power,
              on_leftover: Callable[[], None]) -> Iterator[None]:
    """Have a guest stopped meanwhile; then it is what it was before.

    One that was paused is paused again: that is in its memory image.

    :param on_leftover: called when it could not be started again
    :raises CaptureFailed: it cannot be suspended, and is as it was
    :raises ResumeFailed: it cannot be started, or lacks devices
    :raises nova.exception.InstanceNotFound: it went away meanwhile
    """
    power.note(True)
    faultpoint.reach('suspend.noted')
    try:
        _suspend(guest, power)
        faultpoint.reach('suspend.saved')
        yield
    finally:
        faultpoint.reach('resume.begun')
        _resume(guest, power, on_leftover)


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
            reason='the guest was suspended, and somebody else has started '
                   'it')


def _resume(guest: snap_guest.Guest, power: Power,
            on_leftover: Callable[[], None]) -> None:
    try:
        started = _started(guest, power)
    except nova_exception.InstanceNotFound:
        raise
    except BaseException:
        on_leftover()
        raise
    faultpoint.reach('resume.started')
    power.note(False)
    faultpoint.reach('resume.noted')
    try:
        power.attach()
    except _ERRORS as ex:
        error = exception.DevicesMissing(reason=ex)
        if started:
            raise error from ex
        # It was not suspended: that error is the one to see. Devices that it
        # still has cannot be attached either.
        LOG.warning('%s', error, instance=guest.instance)


def _started(guest: snap_guest.Guest, power: Power) -> bool:
    """Have it back, with some patience; say whether it had to be started."""
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
    """Have a guest back that was suspended, or is about to be.

    One that is down without a saved memory was not stopped by a suspend, and
    stays.

    :param launch: starts the domain
    :returns: whether there was something to do
    :raises CaptureFailed: it is still being saved, and that does not end
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

    The guest then goes on, or was saved already and has stopped.

    :returns: whether one ran
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

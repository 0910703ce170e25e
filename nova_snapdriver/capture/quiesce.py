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

"""Freeze the guest's file systems while its disk is captured."""

from collections.abc import Iterator
import contextlib
import dataclasses
import threading
import types
from typing import Any
from typing import Self

from oslo_concurrency import lockutils
from oslo_log import log as logging

from nova_snapdriver.capture import export
from nova_snapdriver import exception
from nova_snapdriver import faultpoint
from nova_snapdriver import guest as snap_guest
from nova_snapdriver import journal
from nova_snapdriver import waiting

LOG = logging.getLogger(__name__)

_THAW_ATTEMPTS = 3
_THAW_PAUSE_SECONDS = 1

# Libvirtd serves five calls of a client at a time (max_client_requests), and
# a call of an agent that hangs lasts until its timeout. So at most two calls
# wait for agents that may hang, and two for those that have just answered.
_MAY_HANG = threading.BoundedSemaphore(2)
_ANSWERED = threading.BoundedSemaphore(2)


@dataclasses.dataclass(frozen=True)
class Settings:
    """Options and image properties about quiescing.

    :param agent_timeout: [snapdriver] agent_timeout, seconds
    :param has_agent: image property hw_qemu_guest_agent
    :param require_quiesce: image property os_require_quiesce
    :param freeze_timeout: [snapdriver] freeze_timeout, seconds; 0 means no
        limit
    """

    agent_timeout: int
    has_agent: bool
    require_quiesce: bool
    freeze_timeout: int = 0


def settings(conf: Any, instance: Any) -> Settings:
    """Read the settings from nova.conf and the image of an instance."""
    properties = instance.image_meta.properties
    return Settings(
        agent_timeout=conf.snapdriver.agent_timeout,
        has_agent=properties.get('hw_qemu_guest_agent', False),
        require_quiesce=properties.get('os_require_quiesce', False),
        freeze_timeout=conf.snapdriver.freeze_timeout)


class Quiesced:
    """The state of the file systems, known for sure once they are thawed."""

    def __init__(self, consistency: export.Consistency) -> None:
        self.consistency = consistency


@contextlib.contextmanager
def frozen(guest: snap_guest.Guest, settings: Settings,
           notes: journal.Notes) -> Iterator[Quiesced]:
    """Freeze the guest if its image asks for it, and thaw it at the end.

    :param notes: a freeze is noted before it is asked for
    :returns: the state of the file systems in between
    :raises QuiesceFailed: it is required and failed; nothing is frozen
    :raises ThawFailed: the guest was frozen and cannot be thawed
    :raises CaptureFailed: it took too long, and the guest was thawed meanwhile
    """
    with _alone(guest):
        refusal = _freeze(guest, settings, notes)
        if refusal is None:
            yield from _while_frozen(guest, settings, notes)
            return
    _accept(guest, settings, refusal)
    yield Quiesced(export.Consistency.CRASH)


def stopped(guest: snap_guest.Guest,
            settings: Settings) -> export.Consistency:
    """Return what the disk of a domain that does not run shows.

    A suspended guest has its file systems mounted, and has not written all of
    what it holds in memory.

    :raises QuiesceFailed: the image requires quiescing, and it is not that
    """
    if guest.exists():
        # Its disk is on RBD, and it was started just before.
        _accept(guest, settings, 'the guest was started meanwhile')
        return export.Consistency.CRASH
    if guest.is_saved():
        _accept(guest, settings, 'the guest is suspended; resume the server, '
                'or shut it down, and take the snapshot then')
        return export.Consistency.CRASH
    return export.Consistency.OFFLINE


def _while_frozen(guest: snap_guest.Guest, settings: Settings,
                  notes: journal.Notes) -> Iterator[Quiesced]:
    quiesced = Quiesced(export.Consistency.FILESYSTEM)
    watchdog = _Watchdog(guest, settings)
    try:
        with watchdog:
            yield quiesced
    except BaseException:
        # Raise the first error, and log another one.
        _thaw_after_failure(guest, settings, notes)
        raise
    faultpoint.reach('thaw.asked')
    lasted = _thaw(guest, settings, notes, _ANSWERED)
    faultpoint.reach('thaw.done')
    watchdog.check()
    if not lasted:
        _accept(guest, settings, 'the freeze had ended before the thaw')
        quiesced.consistency = export.Consistency.CRASH


def _accept(guest: snap_guest.Guest, settings: Settings,
            refusal: str) -> None:
    """Go on without a freeze, if the image allows it.

    :raises QuiesceFailed: it does not
    """
    if settings.require_quiesce:
        raise exception.QuiesceFailed(reason=refusal)
    if settings.has_agent:
        LOG.warning('The guest could not be quiesced, the snapshot is '
                    'crash-consistent: %s', refusal, instance=guest.instance)


class _Watchdog:
    """Thaws a guest that stays frozen for longer than freeze_timeout.

    Libvirt or QEMU may hang in the call that captures the disk. Meanwhile all
    writes in the guest wait, and its applications do not wait for ever.
    """

    def __init__(self, guest: snap_guest.Guest, settings: Settings) -> None:
        self._guest = guest
        self._settings = settings
        self._barked = False
        # In eventlet mode its thread is a green one.
        self._timer = threading.Timer(settings.freeze_timeout, self._thaw)
        self._timer.daemon = True

    def __enter__(self) -> Self:
        if self._settings.freeze_timeout:
            self._timer.start()
        return self

    def __exit__(self, exc_type: type[BaseException] | None,
                 exc: BaseException | None,
                 traceback: types.TracebackType | None) -> None:
        if self._settings.freeze_timeout:
            self._timer.cancel()
            self._timer.join()

    def check(self) -> None:
        """:raises CaptureFailed: it had to thaw the guest"""
        if self._barked:
            raise exception.CaptureFailed(
                reason='it took longer than [snapdriver] freeze_timeout, %d '
                       'seconds, and the guest was thawed meanwhile' %
                       self._settings.freeze_timeout)

    def _thaw(self) -> None:
        self._barked = True
        LOG.error('The guest has been frozen for %d seconds and is thawed: '
                  'libvirt or QEMU takes too long to capture its disk',
                  self._settings.freeze_timeout, instance=self._guest.instance)
        try:
            _thaw_in_turn(self._guest, self._settings.agent_timeout,
                          _ANSWERED)
        except exception.ThawFailed as ex:
            # The next attempt is made when the capture has ended.
            LOG.error('%s', ex, instance=self._guest.instance)


def _freeze(guest: snap_guest.Guest, settings: Settings,
            notes: journal.Notes) -> str | None:
    """Freeze the guest.

    :returns: ``None`` if it is frozen; else why not, with the guest thawed
    """
    if not settings.has_agent:
        return 'the image has no property hw_qemu_guest_agent=yes'
    refusal = guest.agent_refusal() or _limit_agent(guest, settings)
    if refusal is not None:
        return refusal
    notes.mark(journal.Mark.FROZEN, guest.run_id())
    try:
        faultpoint.reach('freeze.asked')
        with _MAY_HANG:
            count = guest.freeze()
        if count:
            faultpoint.reach('freeze.done')
            return None
        refusal = 'its agent froze no file system'
    except snap_guest.FreezeUnsupported as ex:
        # An agent that is frozen already answers the same.
        notes.unmark(journal.Mark.FROZEN)
        guest.reset_agent_timeout()
        return str(ex)
    except snap_guest.AgentError as ex:
        refusal = str(ex)
    except BaseException:
        _thaw_after_failure(guest, settings, notes)
        raise
    # An agent that timed out may have frozen the guest nevertheless.
    _thaw_after_failure(guest, settings, notes)
    return refusal


def _limit_agent(guest: snap_guest.Guest, settings: Settings) -> str | None:
    """Limit how long the agent may take; returns why it cannot be used."""
    try:
        guest.set_agent_timeout(settings.agent_timeout)
    except snap_guest.AgentError as ex:
        # Nothing was asked of it: to thaw now would undo another's freeze.
        guest.reset_agent_timeout()
        return str(ex)
    return None


def _alone(
        guest: snap_guest.Guest) -> contextlib.AbstractContextManager[object]:
    """Lock the guest against freezes and thaws by other threads."""
    return lockutils.lock('snapdriver-quiesce-%s' % guest.name)


def _thaw(guest: snap_guest.Guest, settings: Settings, notes: journal.Notes,
          turn: threading.Semaphore = _MAY_HANG) -> bool:
    """Thaw the guest; whether it was frozen until now.

    :param turn: to wait for, before libvirt is called
    :raises ThawFailed: a recovery tries it again, until the agent answers
    """
    try:
        lasted = _thaw_in_turn(guest, settings.agent_timeout, turn)
    except BaseException:
        # The guest is frozen, and libvirt has not even sent the thaw: an agent
        # that hangs does not answer the guest-sync before it.
        notes.keep()
        raise
    notes.unmark(journal.Mark.FROZEN)
    return lasted


def _thaw_after_failure(guest: snap_guest.Guest, settings: Settings,
                        notes: journal.Notes) -> None:
    """Thaw a guest that is frozen, or may become so.

    A freeze command cannot be recalled. It takes effect when the agent no
    longer hangs, and then a recovery thaws the guest.
    """
    try:
        _thaw(guest, settings, notes)
    except Exception as ex:
        # Also the journal's: the first error is the one to see.
        LOG.error('%s', ex, instance=guest.instance)


def _thaw_in_turn(guest: snap_guest.Guest, agent_timeout: int,
                  turn: threading.Semaphore) -> bool:
    """Thaw the guest, in several attempts. No error if it no longer runs.

    :param agent_timeout: seconds
    :param turn: to wait for, before each attempt
    :returns: whether it was frozen until now, as far as its agent tells; the
        answer to an attempt that timed out is lost
    :raises ThawFailed: the agent failed, or does not answer
    :raises ThawUnsupported: no other attempt helps
    """
    counts: list[int | None] = []

    def attempt() -> None:
        counts.append(None)
        with turn:
            counts[-1] = _thaw_once(guest, agent_timeout)

    try:
        waiting.retry(
            attempt, 'Thawing', guest.instance,
            errors=(snap_guest.AgentError,),
            final=(snap_guest.GuestGone, snap_guest.FreezeUnsupported),
            attempts=_THAW_ATTEMPTS, pause=_THAW_PAUSE_SECONDS)
        return counts != [0]
    except snap_guest.GuestGone:
        return True
    except snap_guest.FreezeUnsupported as ex:
        raise exception.ThawUnsupported(domain=guest.name, reason=ex) from ex
    except snap_guest.AgentError as ex:
        raise exception.ThawFailed(domain=guest.name, reason=ex) from ex


def thaw_alone(guest: snap_guest.Guest, agent_timeout: int) -> None:
    """Thaw the guest, but not in the middle of another capture.

    :raises ThawFailed: the agent failed, or does not answer
    :raises ThawUnsupported: no other attempt helps
    """
    with _alone(guest):
        _thaw_in_turn(guest, agent_timeout, _MAY_HANG)


def _thaw_once(guest: snap_guest.Guest, agent_timeout: int) -> int | None:
    """Thaw the guest, and restore libvirt's default agent timeout."""
    try:
        # Set each time: libvirt forgets it when the guest is suspended.
        guest.set_agent_timeout(agent_timeout)
        return guest.thaw()
    finally:
        guest.reset_agent_timeout()

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
import time
import types
from typing import Any
from typing import Self

from oslo_concurrency import lockutils
from oslo_log import log as logging

from nova_snapdriver.capture import export
from nova_snapdriver import exception
from nova_snapdriver import faultpoint
from nova_snapdriver import guest as snap_guest
from nova_snapdriver import waiting

LOG = logging.getLogger(__name__)

_THAW_ATTEMPTS = 3
_THAW_PAUSE_SECONDS = 1

# How long, and how often, to try to thaw a guest whose agent hangs in a
# freeze. Hooks of databases take minutes; after an hour it is an operator's
# turn.
_LATE_SECONDS = 3600
_LATE_POLL_SECONDS = 2


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


@contextlib.contextmanager
def frozen(guest: snap_guest.Guest,
           settings: Settings) -> Iterator[export.Consistency]:
    """Freeze the guest if its image asks for it, and thaw it at the end.

    :returns: the state of the file systems in between
    :raises QuiesceFailed: it is required and failed; nothing is frozen
    :raises ThawFailed: the guest was frozen and cannot be thawed
    :raises CaptureFailed: it took too long, and the guest was thawed meanwhile
    """
    with _alone(guest):
        refusal = _freeze(guest, settings)
        if refusal is None:
            watchdog = _Watchdog(guest, settings)
            try:
                with watchdog:
                    yield export.Consistency.FILESYSTEM
            finally:
                faultpoint.reach('thaw.asked')
                _thaw_after_capture(guest, settings)
                faultpoint.reach('thaw.done')
            watchdog.check()
            return
    if settings.require_quiesce:
        raise exception.QuiesceFailed(reason=refusal)
    if settings.has_agent:
        LOG.warning('The guest could not be quiesced, the snapshot is '
                    'crash-consistent: %s', refusal, instance=guest.instance)
    yield export.Consistency.CRASH


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
            thaw(self._guest, self._settings.agent_timeout)
        except exception.ThawFailed as ex:
            # The next attempt is made when the capture has ended.
            LOG.error('%s', ex, instance=self._guest.instance)


def _freeze(guest: snap_guest.Guest, settings: Settings) -> str | None:
    """Freeze the guest.

    :returns: ``None`` if it is frozen; else why not, with the guest thawed
    """
    if not settings.has_agent:
        return 'the image has no property hw_qemu_guest_agent=yes'
    refusal = guest.agent_refusal()
    if refusal is not None:
        return refusal
    try:
        faultpoint.reach('freeze.asked')
        guest.set_agent_timeout(settings.agent_timeout)
        if guest.freeze():
            faultpoint.reach('freeze.done')
            return None
        refusal = 'its agent froze no file system'
    except snap_guest.AgentError as ex:
        refusal = str(ex)
    except BaseException:
        thaw(guest, settings.agent_timeout)
        raise
    # An agent that timed out may have frozen the guest nevertheless.
    _thaw_after_failure(guest, settings)
    return refusal


def _alone(
        guest: snap_guest.Guest) -> contextlib.AbstractContextManager[object]:
    """Lock the guest against freezes and thaws by other threads."""
    return lockutils.lock('snapdriver-quiesce-%s' % guest.name)


def _thaw_after_capture(guest: snap_guest.Guest, settings: Settings) -> None:
    try:
        thaw(guest, settings.agent_timeout)
    except exception.ThawFailed:
        # The guest is frozen, and libvirt has not even sent the thaw: an agent
        # that hangs does not answer the guest-sync before it.
        _begin_to_thaw_late(guest, settings)
        raise


def _thaw_after_failure(guest: snap_guest.Guest, settings: Settings) -> None:
    try:
        thaw(guest, settings.agent_timeout)
    except exception.ThawFailed as ex:
        LOG.error('%s', ex, instance=guest.instance)
        # The freeze command cannot be recalled. It takes effect when the agent
        # no longer hangs, and then the guest has to be thawed.
        _begin_to_thaw_late(guest, settings)


def _begin_to_thaw_late(guest: snap_guest.Guest, settings: Settings) -> None:
    # In eventlet mode the thread is a green one.
    threading.Thread(target=_thaw_late, args=(guest, settings),
                     daemon=True).start()


def _thaw_late(guest: snap_guest.Guest, settings: Settings) -> None:
    """Thaw as soon as the agent answers; the snapshot does not wait."""
    # Not at once: the agent has just failed to answer.
    time.sleep(_LATE_POLL_SECONDS)
    if not waiting.wait_until(lambda: _thaws(guest, settings), _LATE_SECONDS,
                              _LATE_POLL_SECONDS):
        LOG.error('The guest agent has not answered for %d s. When it does, '
                  'the guest may be frozen: run "virsh domfsthaw %s" then',
                  _LATE_SECONDS, guest.name, instance=guest.instance)


def _thaws(guest: snap_guest.Guest, settings: Settings) -> bool:
    """Try to thaw once; whether nothing is left to thaw."""
    try:
        with _alone(guest):
            _thaw_once(guest, settings.agent_timeout)
    except snap_guest.GuestGone:
        return True
    except snap_guest.AgentError:
        return False
    LOG.warning('The agent answers again and has thawed the guest',
                instance=guest.instance)
    return True


def thaw(guest: snap_guest.Guest, agent_timeout: int) -> None:
    """Thaw the guest, in several attempts. No error if it no longer runs.

    :param agent_timeout: seconds
    :raises ThawFailed: the agent failed, or does not answer
    """
    try:
        waiting.retry(
            lambda: _thaw_once(guest, agent_timeout), 'Thawing',
            guest.instance, errors=(snap_guest.AgentError,),
            final=(snap_guest.GuestGone,), attempts=_THAW_ATTEMPTS,
            pause=_THAW_PAUSE_SECONDS)
    except snap_guest.GuestGone:
        return
    except snap_guest.AgentError as ex:
        raise exception.ThawFailed(domain=guest.name, reason=ex) from ex


def thaw_alone(guest: snap_guest.Guest, agent_timeout: int) -> None:
    """Thaw the guest, but not in the middle of another capture.

    :raises ThawFailed: the agent failed, or does not answer
    """
    with _alone(guest):
        thaw(guest, agent_timeout)


def _thaw_once(guest: snap_guest.Guest, agent_timeout: int) -> None:
    """Thaw the guest, and restore libvirt's default agent timeout."""
    try:
        # Set each time: libvirt forgets it when the guest is suspended.
        guest.set_agent_timeout(agent_timeout)
        guest.thaw()
    finally:
        guest.reset_agent_timeout()

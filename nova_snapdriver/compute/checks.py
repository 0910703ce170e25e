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

"""What is wrong with the host or with nova.conf, and what to do about it.

nova-compute logs it when it starts, and ``nova-snapdriver check`` shows it.
Nothing is changed.
"""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
import dataclasses
import enum
import os
import pathlib
import re
import shutil
import subprocess
from typing import Any

import nova.conf
from oslo_log import log as logging

from nova_snapdriver.capture import space
from nova_snapdriver.capture import workspace
from nova_snapdriver.compute import storage
from nova_snapdriver import conf
from nova_snapdriver import host
from nova_snapdriver.recovery import images
from nova_snapdriver.stream import codec as stream_codec
from nova_snapdriver.transfer import compression

LOG = logging.getLogger(__name__)
CONF = nova.conf.CONF

_APPARMOR = pathlib.Path('/sys/module/apparmor/parameters/enabled')
_APPARMOR_RULES = pathlib.Path('/etc/apparmor.d/local/abstractions/'
                               'libvirt-qemu')
_SELINUX = pathlib.Path('/sys/fs/selinux/enforce')
_SELINUX_MODULES = pathlib.Path('/var/lib/selinux')
_UNITS = ('nova-compute', 'openstack-nova-compute', 'devstack@n-cpu',
          'kolla-nova_compute-container')
_SYSTEMCTL_SECONDS = 10
_SECONDS = {'h': 3600.0, 'min': 60.0, 's': 1.0, 'ms': 0.001}


class Level(enum.IntEnum):
    """As those of nova-status, which are its exit status, too."""

    SUCCESS = 0
    WARNING = 1
    FAILURE = 2


@dataclasses.dataclass(frozen=True)
class Finding:
    """What a check found.

    :param details: what is wrong, and what to do; empty if nothing is
    """

    name: str
    level: Level
    details: str = ''


@dataclasses.dataclass(frozen=True)
class Check:
    """Something to look at.

    :param ask: gets libvirt's connection; says what is wrong, or nothing
    :param level: of what is wrong
    :param logged: whether nova-compute logs it where it asks for it anyway
    """

    name: str
    ask: Callable[[Any], str | None]
    level: Level = Level.FAILURE
    logged: bool = False


def run(checks: Sequence[Check], connection: Any) -> list[Finding]:
    """Look at everything; a check that fails is a finding itself."""
    return [_run(check, connection) for check in checks]


def log(connection: Any) -> None:
    """Log what is wrong, for the start of nova-compute. Never raises."""
    for found in run([check for check in CHECKS if not check.logged],
                     connection):
        if found.level is Level.FAILURE:
            LOG.error('%s: %s', found.name, found.details)
        elif found.level is Level.WARNING:
            LOG.warning('%s: %s', found.name, found.details)


def _run(check: Check, connection: Any) -> Finding:
    try:
        wrong = check.ask(connection)
    except Exception as ex:
        wrong = str(ex) or repr(ex)
    if wrong:
        return Finding(check.name, check.level, wrong)
    return Finding(check.name, Level.SUCCESS)


def _options(connection: Any) -> None:
    conf.check(CONF)


def _libvirt(connection: Any) -> str:
    found = host.Host(_Connected(connection)).capabilities(
        CONF.libvirt.virt_type)
    lacks = [one for one in found.missing if one not in found.server_missing]
    return '; '.join(lacks) and (
        'running servers are not captured by a backup job. Missing: ' +
        '; '.join(lacks))


@dataclasses.dataclass(frozen=True)
class _Connected:
    """What :class:`nova_snapdriver.host.Host` wants of Nova's."""

    connection: Any

    def get_connection(self) -> Any:
        return self.connection


def _binding(connection: Any) -> str:
    return '; '.join(host.missing_binding())


def _programs(connection: Any) -> str:
    return '; '.join(host.missing_programs())


def _compute_driver(connection: Any) -> str | None:
    if CONF.compute_driver == 'snapdriver.SnapDriver':
        return None
    return ('nova-compute loads %s. Set [DEFAULT] compute_driver = '
            'snapdriver.SnapDriver' % CONF.compute_driver)


def _scratch() -> workspace.Workspace:
    return workspace.locate(CONF.snapdriver.scratch_directory)


def _scratch_directory(connection: Any) -> str | None:
    place = _scratch()
    parent = os.path.dirname(place.path)
    if os.path.isdir(parent):
        workspace.check(place)
        return None
    # The first snapshot makes it: root would make it root's.
    return _unwritable(parent, 'scratch_directory')


def _existing(path: str) -> str:
    """A directory, or the one in which it would be made."""
    while not os.path.exists(path):
        path = os.path.dirname(os.path.abspath(path))
    return path


def _unwritable(path: str, option: str) -> str | None:
    at = _existing(path)
    if os.path.isdir(at) and os.access(at, os.W_OK | os.X_OK):
        return None
    return ('%s is no directory that this user may write to, as [snapdriver] '
            '%s has to be' % (at, option))


def _reach(connection: Any) -> str | None:
    owner = host.Host(_Connected(connection)).qemu_owner()
    parent = _existing(os.path.dirname(_scratch().path))
    barrier = owner and workspace.unreachable(parent, *owner)
    return 'QEMU runs as user %d and may not enter %s: chmod o+x %s' % (
        owner[0], barrier, barrier) if owner and barrier else None


def _space(connection: Any) -> str | None:
    lacks = space.shortage(_existing(os.path.dirname(_scratch().path)),
                           space.limits(CONF))
    return lacks and ('%s. Free some, or set [snapdriver] scratch_directory '
                      'to another file system' % lacks)


def _journal(connection: Any) -> str | None:
    return _unwritable(CONF.snapdriver.journal_directory,
                       'journal_directory')


def _apparmor(connection: Any) -> str | None:
    if not _starts_with(_APPARMOR, 'Y') or (
            _APPARMOR_RULES.is_file() and
            'snapdriver-' in _APPARMOR_RULES.read_text()):
        return None
    return ('AppArmor is on, and %s lacks the rule for the socket: append '
            'share/nova-snapdriver/apparmor-libvirt-qemu' % _APPARMOR_RULES)


def _selinux(connection: Any) -> str | None:
    if not _starts_with(_SELINUX, '1') or any(
            _SELINUX_MODULES.glob('*/active/modules/*/nova_snapdriver')):
        return None
    return ('SELinux is enforcing, and its module nova_snapdriver is not '
            'seen: load share/nova-snapdriver/nova_snapdriver.te')


def _starts_with(path: pathlib.Path, text: str) -> bool:
    return path.is_file() and path.read_text().startswith(text)


def _service_user(connection: Any) -> str | None:
    lacks = images.missing_role()
    return lacks and ('after a crash, unfinished images of snapshots stay: '
                      '%s' % lacks)


def _glance(connection: Any) -> str | None:
    return storage.glance_lacks()


def _ceph(connection: Any) -> str | None:
    return storage.ceph_lacks()


def _codec(connection: Any) -> str | None:
    wanted = compression.codec(CONF)
    lacks = wanted and stream_codec.missing(wanted)
    return 'images are not compressed with %s. Missing: %s' % (
        wanted, lacks) if lacks else None


def _limits(connection: Any) -> str | None:
    snapshots, builds = (CONF.max_concurrent_snapshots,
                         CONF.max_concurrent_builds)
    if not snapshots:
        return ('[DEFAULT] max_concurrent_snapshots = 0 lets any number of '
                'snapshots run at a time, each with a process and scratch '
                'space')
    if 0 < builds <= snapshots:
        return ('with native threads, builds of servers wait for %d snapshots:'
                ' both share as many threads as the larger limit says. Set '
                '[DEFAULT] max_concurrent_snapshots below '
                'max_concurrent_builds' % snapshots)
    return None


def _stop_timeout(connection: Any) -> str | None:
    given = stop_seconds()
    wanted = float(getattr(CONF, 'manager_shutdown_timeout', 0) or 0)
    if given is None or given >= wanted:
        return None
    return ('nova-compute is killed %d s after it is told to stop, and '
            '[DEFAULT] manager_shutdown_timeout is %d s. Set TimeoutStopSec '
            "of its unit above that, or Kolla's docker_graceful_timeout" % (
                given, wanted))


def stop_seconds() -> float | None:
    """How long nova-compute has to stop; none if for ever, or not known."""
    if shutil.which('systemctl') is None:
        return None
    for unit in _UNITS:
        shown = subprocess.run(
            ['systemctl', 'show', '-p', 'LoadState', '-p', 'TimeoutStopUSec',
             '-p', 'ExecStop', unit], capture_output=True, text=True,
            timeout=_SYSTEMCTL_SECONDS).stdout
        if 'LoadState=loaded' in shown:
            return min(_limits_in(shown), default=None)
    return None


def _limits_in(shown: str) -> Iterator[float]:
    """Seconds that a unit has to stop, by systemd and by Docker."""
    for limit in re.findall(r'TimeoutStopUSec=(.*\d.*)', shown):
        yield sum(float(number) * _SECONDS[unit] for number, unit in
                  re.findall(r'(\d+)(h|min|ms|s)\b', limit))
    # What Kolla-Ansible writes: docker stop nova_compute -t 60
    for limit in re.findall(r'stop \S+ -t (\d+)', shown):
        yield float(limit)


CHECKS = (
    Check('Options', _options, logged=True),
    Check('compute_driver', _compute_driver),
    Check('libvirt and QEMU', _libvirt, Level.WARNING, logged=True),
    Check("libnbd's Python binding", _binding, logged=True),
    Check('Programs', _programs, Level.WARNING, logged=True),
    Check('Scratch directory', _scratch_directory, logged=True),
    Check('QEMU in the scratch directory', _reach),
    Check('Free space', _space),
    Check('Journal directory', _journal),
    Check('AppArmor', _apparmor),
    Check('SELinux', _selinux),
    Check('Compression', _codec, Level.WARNING, logged=True),
    Check('[service_user]', _service_user, Level.WARNING, logged=True),
    # Not at the start: Glance and Ceph may be away for long.
    Check('Glance', _glance, Level.WARNING, logged=True),
    Check('Ceph', _ceph, Level.WARNING, logged=True),
    Check('Limits', _limits, Level.WARNING),
    Check('Stop timeout', _stop_timeout, Level.WARNING),
)

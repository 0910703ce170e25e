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

"""What this host can do, asked once when nova-compute starts."""

import dataclasses
import os
import re
import shutil
import subprocess
import sys
from typing import Any

from lxml import etree
from oslo_log import log as logging

from nova_snapdriver import child
from nova_snapdriver import imagebackend
from nova_snapdriver.stream import codec as stream_codec

LOG = logging.getLogger(__name__)

# The first releases with reliable backup jobs: libvirt's "incremental backup"
# is no longer experimental with these. Nova 34 itself requires later ones.
MIN_LIBVIRT = (7, 2, 0)
MIN_QEMU = (6, 0, 0)

# The first whose buffers share memory with Python's, as the stream process
# needs it.
MIN_LIBNBD = (1, 14)
_PROBE = 'import nbd; nbd.Buffer.from_buffer; print(nbd.NBD().get_version())'
_PROBE_SECONDS = 60


def _triple(version: int) -> tuple[int, int, int]:
    """A version from the number in which libvirt encodes it."""
    return version // 1000000, version // 1000 % 1000, version % 1000


def _dotted(version: tuple[int, ...]) -> str:
    return '.'.join(str(part) for part in version)


@dataclasses.dataclass(frozen=True)
class Capabilities:
    """Versions of libvirt and QEMU, and what this host lacks, in words.

    :param missing: required by the live path
    :param server_missing: required by the mirror and the cold path
    """

    libvirt: str
    qemu: str
    missing: tuple[str, ...] = ()
    server_missing: tuple[str, ...] = ()

    def log(self, codec: str | None = None) -> None:
        """Log which snapshot paths this host supports, and what it lacks.

        :param codec: zlib or zstd, if images are to be compressed
        """
        paths = [] if self.missing else ['live']
        paths += [] if self.server_missing else ['mirror', 'cold']
        LOG.info('Snapshot paths available: %(paths)s (libvirt %(libvirt)s, '
                 'QEMU %(qemu)s)', {'paths': ', '.join([*paths, 'stock']),
                                    'libvirt': self.libvirt,
                                    'qemu': self.qemu})
        if self.missing:
            LOG.warning('The live path for snapshots of running servers is '
                        'not available. Missing: %s',
                        '; '.join(self.missing))
        if self.server_missing:
            LOG.warning('The mirror and cold paths for snapshots are not '
                        'available. Missing: %s',
                        '; '.join(self.server_missing))
        if codec is not None:
            _log_codec(codec)


def _log_codec(codec: str) -> None:
    missing, slow = stream_codec.missing(codec), stream_codec.slow(codec)
    if missing:
        LOG.warning('Images are not compressed with %(codec)s. Missing: '
                    '%(missing)s', {'codec': codec, 'missing': missing})
    if slow:
        LOG.warning('Compression with %(codec)s takes several times the CPU '
                    'that it could. Missing: %(slow)s',
                    {'codec': codec, 'slow': slow})


class Host:
    """The compute host.

    :param host: Nova's :class:`nova.virt.libvirt.host.Host`
    """

    def __init__(self, host: Any) -> None:
        self._host = host

    def capabilities(self, virt_type: str) -> Capabilities:
        """Ask libvirt and QEMU for their versions, and look for programs.

        :param virt_type: Nova's [libvirt] virt_type
        :raises libvirt.libvirtError: libvirtd does not answer
        """
        connection = self._host.get_connection()
        libvirt = _triple(connection.getLibVersion())
        qemu = _triple(connection.getVersion())
        domain = imagebackend.parse(
            connection.getDomainCapabilities(None, None, None, virt_type, 0))
        return Capabilities(
            _dotted(libvirt), _dotted(qemu),
            (*_missing_in_libvirt(libvirt, qemu, domain), *missing_binding()),
            (*missing_programs(), *missing_binding()))

    def qemu_uid(self) -> int | None:
        """The user of :meth:`qemu_owner`."""
        owner = self.qemu_owner()
        return owner and owner[0]

    def qemu_owner(self) -> tuple[int, int] | None:
        """User and group that QEMU runs as, unless a domain's XML has others.

        :returns: ``None`` if libvirt does not set them
        :raises libvirt.libvirtError: libvirtd does not answer
        """
        capabilities = imagebackend.parse(
            self._host.get_connection().getCapabilities())
        label = capabilities.findtext(
            "host/secmodel[model='dac']/baselabel[@type='qemu']")
        if not label:
            return None
        uid, gid = label.replace('+', '').split(':')
        return int(uid), int(gid)


def _missing_in_libvirt(libvirt: tuple[int, ...], qemu: tuple[int, ...],
                        domain: etree._Element) -> list[str]:
    missing = []
    if libvirt < MIN_LIBVIRT:
        missing.append('libvirt %s or later (package libvirt-daemon)' %
                       _dotted(MIN_LIBVIRT))
    if qemu < MIN_QEMU:
        missing.append('QEMU %s or later (package qemu-system-x86)' %
                       _dotted(MIN_QEMU))
    backup = domain.find('features/backup')
    if backup is None or backup.get('supported') != 'yes':
        missing.append('the backup API in libvirt and QEMU')
    return missing


def missing_binding() -> list[str]:
    """What this host lacks to read an export, in words."""
    try:
        reason = _lack_of_binding()
    except (OSError, subprocess.SubprocessError) as ex:
        reason = str(ex)
    return ["libnbd's Python binding %s or later (package python3-libnbd): %s"
            % (_dotted(MIN_LIBNBD), reason)] if reason else []


def _lack_of_binding() -> str:
    """Why the binding is of no use to a stream process; empty if it is.

    It is imported in a process as that is one: a file of that name may be
    another release's, another Python's, or broken.
    """
    environment = child.environment()
    if 'PYTHONPATH' in os.environ:
        environment['PYTHONPATH'] = os.environ['PYTHONPATH']
    done = subprocess.run(
        [sys.executable, '-P', '-c', _PROBE], env=environment,
        capture_output=True, text=True, timeout=_PROBE_SECONDS)
    if done.returncode:
        return done.stderr.strip().rpartition('\n')[2] or 'it crashes'
    found = re.match(r'(\d+)\.(\d+)', done.stdout)
    if found and (int(found[1]), int(found[2])) >= MIN_LIBNBD:
        return ''
    return 'this is %s' % done.stdout.strip()


def missing_programs() -> list[str]:
    """What this host lacks to export a disk without QEMU, in words."""
    if shutil.which('qemu-nbd') is None:
        return ['qemu-nbd (package qemu-utils)']
    return []

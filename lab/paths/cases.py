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

"""The rows of `paths`: by which path, of which disk, in which state."""

import dataclasses

from lab.observe import disks
from lab.openstack import config


@dataclasses.dataclass(frozen=True)
class Case:
    """A row to be, and what its image has to say."""

    path: str
    disk: str
    state: str
    consistency: str | None
    #: In addition to those of the disk.
    options: config.Options = ()
    note: str = ''
    #: The account that nova-compute runs as.
    user: str = config.ROOT
    #: Whether it reaches libvirtd by TLS.
    tls: bool = False
    #: Whether the image is written into Glance's pool in Ceph.
    written: bool = False

    @property
    def name(self) -> str:
        user = '' if self.user == config.ROOT else f'as {self.user}'
        words = (self.path, self.disk, self.state, self.note, user,
                 'by TLS' if self.tls else '',
                 'into Ceph' if self.written else '')
        return ' '.join(word for word in words if word)

    @property
    def compute(self) -> config.Compute:
        return config.Compute(options=disks.DISKS[self.disk] + self.options,
                              user=self.user, tls=self.tls,
                              rbd=self.written or self.disk in disks.IMAGES)

    @property
    def images(self) -> config.Images:
        return disks.IMAGES.get(
            self.disk, disks.IN_CEPH if self.written else config.Images())

    @property
    def image_format(self) -> str:
        given = [value for _, key, value in self.options
                 if key == 'snapshot_image_format']
        return given[0] if given else disks.disk_format(self.disk)


def cases() -> list[Case]:
    """Return all rows, those with the same options in sequence."""
    found = []
    for disk in [disk for disk in disks.DISKS if disk not in disks.IMAGES]:
        found += [Case('live', disk, 'running', 'filesystem'),
                  Case('live', disk, 'paused', 'crash'),
                  Case('cold', disk, 'suspended', 'crash'),
                  Case('cold', disk, 'stopped', 'offline')]
        if disk in ('overlay', 'raw'):
            found += _running('mirror', disk, disks.MIRROR)
        found += _running('cold', disk, disks.SUSPEND)
    found += [Case('stock', 'overlay', state, None, disks.VMDK, 'vmdk')
              for state in ('running', 'stopped')]
    # Ceph in the end: a Glance without that store cannot delete its images.
    return [*found, *compressed_cases(), *unprivileged_cases(), *tls_cases(),
            *written_cases(), *ceph_cases()]


def _running(path: str, disk: str, options: config.Options) -> list[Case]:
    return [Case(path, disk, 'running', 'filesystem', options),
            Case(path, disk, 'paused', 'crash', options)]


def compressed_cases() -> list[Case]:
    """Return rows with compressed images, by path and by kind of disk."""
    zlib = disks.QCOW2 + disks.ZLIB
    return [
        Case('live', 'overlay', 'running', 'filesystem', disks.ZSTD, 'zstd'),
        Case('cold', 'overlay', 'stopped', 'offline', disks.ZSTD, 'zstd'),
        Case('mirror', 'overlay', 'running', 'filesystem',
             disks.MIRROR + disks.ZSTD, 'zstd'),
        Case('cold', 'overlay', 'running', 'filesystem',
             disks.SUSPEND + disks.ZLIB, 'zlib'),
        Case('live', 'raw', 'running', 'filesystem', zlib, 'zlib'),
        Case('live', 'block', 'running', 'filesystem', zlib, 'zlib'),
        Case('cold', 'block', 'stopped', 'offline', zlib, 'zlib')]


def unprivileged_cases() -> list[Case]:
    """Return rows with a nova-compute that is not root.

    In each of them it makes other calls as root.
    """
    found = [Case('live', 'overlay', 'running', 'filesystem'),
             Case('live', 'overlay', 'paused', 'crash'),
             Case('cold', 'overlay', 'stopped', 'offline'),
             Case('mirror', 'overlay', 'running', 'filesystem', disks.MIRROR),
             Case('live', 'block', 'running', 'filesystem'),
             Case('cold', 'block', 'stopped', 'offline')]
    return [dataclasses.replace(case, user='nova') for case in found]


def tls_cases() -> list[Case]:
    """Return rows in which libvirtd is reached by an address."""
    return [Case('live', 'overlay', 'running', 'filesystem', tls=True),
            Case('cold', 'overlay', 'stopped', 'offline', tls=True)]


def written_cases() -> list[Case]:
    """Return rows with images that are written into Glance's pool."""
    written = disks.WRITTEN
    found = [Case('live', 'qcow2', 'running', 'filesystem', written),
             Case('live', 'raw', 'paused', 'crash', written),
             Case('mirror', 'raw', 'running', 'filesystem',
                  disks.MIRROR + written),
             Case('cold', 'raw', 'running', 'filesystem',
                  disks.SUSPEND + written),
             Case('cold', 'block', 'stopped', 'offline', written),
             Case('live', 'rbd-file', 'running', 'filesystem', written)]
    return [dataclasses.replace(case, written=True) for case in found]


def ceph_cases() -> list[Case]:
    """Return rows with disks on RBD, and Glance there, too, or elsewhere."""
    consistency = {'running': 'filesystem', 'paused': 'crash',
                   'stopped': 'offline'}
    return [
        *(Case('direct', 'rbd', *pair) for pair in consistency.items()),
        *(Case('cold' if state == 'stopped' else 'live', 'rbd-file', state,
               word) for state, word in consistency.items()),
        Case('live', 'rbd-file', 'running', 'filesystem',
             disks.QCOW2 + disks.ZSTD, 'zstd')]

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

"""Choose the path of a snapshot: a pure function from facts to a plan."""

import dataclasses
import enum

from nova.compute import power_state
from nova_snapdriver import imagebackend
from nova_snapdriver.stream import formats

_DISK_FORMATS = frozenset(('qcow2', 'raw'))
_DISK_TYPES = frozenset(('file', 'block'))
# SUSPENDED is a guest that sleeps (S3): its QEMU holds the disk.
_ACTIVE = frozenset((power_state.RUNNING, power_state.PAUSED,
                     power_state.SUSPENDED))
# Nova's suspended servers are among them: their memory is saved.
_STOPPED = frozenset((power_state.SHUTDOWN, power_state.CRASHED))


class Path(enum.StrEnum):
    """The ways to capture a disk. ``STOCK`` is Nova's own snapshot."""

    DIRECT = 'direct'
    LIVE = 'live'
    MIRROR = 'mirror'
    COLD = 'cold'
    STOCK = 'stock'
    #: Nova's own driver would harm what is there.
    REFUSED = 'refused'


_READ = frozenset((Path.LIVE, Path.MIRROR, Path.COLD))


@dataclasses.dataclass(frozen=True)
class Facts:
    """Everything that the choice depends on.

    :param virt_type: Nova's ``[libvirt] virt_type``
    :param power_state: from :mod:`nova.compute.power_state`
    :param disk: ``None`` if the domain has no disk
    :param image_format: the format that the image should have
    :param missing: what this host lacks for the live path, in words
    :param server_missing: what this host lacks to export a disk by qemu-nbd,
        as the mirror and the cold path do
    :param live_method: ``[snapdriver] live_method``
    :param live_disabled: ``[workarounds] disable_libvirt_livesnapshot``
    :param encryption: ``[ephemeral_storage_encryption] enabled``
    :param block_job: whether a block job runs on the disk
    :param not_direct: why Ceph cannot copy the disk into Glance's pool, in
        words; ``None`` if it can
    :param not_held: why no RBD snapshot can be made of the disk, in words;
        ``None`` if one can, or if the disk is not on RBD
    :param not_stored: why the image cannot be written into Ceph, in words;
        ``None`` if it can; empty if nobody asks for that
    """

    virt_type: str
    power_state: int
    disk: imagebackend.RootDisk | None
    image_format: str
    missing: tuple[str, ...] = ()
    server_missing: tuple[str, ...] = ()
    live_method: str = 'auto'
    live_disabled: bool = False
    encryption: bool = False
    block_job: bool = False
    not_direct: str | None = 'the disk is not on RBD'
    not_held: str | None = None
    not_stored: str | None = ''


@dataclasses.dataclass(frozen=True)
class Plan:
    """The path, and why, in words for the log.

    :param fallback: the plan if Ceph or Glance refuses. Only the direct path
        has one: by then all that it did to the guest is undone.
    :param suspends: whether the guest is running and will be suspended
    :param destination: where the image goes, and why, in words; empty if it
        is uploaded because nobody asks for anything else
    :param stored: whether the image is written into Ceph, not uploaded
    """

    path: Path
    reason: str
    fallback: 'Plan | None' = None
    suspends: bool = False
    destination: str = ''
    stored: bool = False


def choose(facts: Facts) -> Plan:
    """Choose the path. It is chosen once and does not change afterwards."""
    streamed = _choose_streamed(facts)
    if facts.not_direct is not None or _not_ours(facts):
        return _sent(streamed, facts)
    # Its fallback is uploaded: who refused a copy's location refuses this one.
    return Plan(Path.DIRECT, 'its disk and Glance are on the same Ceph '
                'cluster', fallback=streamed)


def _sent(streamed: Plan, facts: Facts) -> Plan:
    """The plan for a disk that is read, with the destination of its image."""
    if facts.not_stored == '' or streamed.path not in _READ:
        return streamed
    if facts.not_stored is None:
        return dataclasses.replace(streamed, stored=True, destination=(
            "rbd, the pool of Glance's store"))
    return dataclasses.replace(
        streamed, destination='glance, as %s' % facts.not_stored)


def _choose_streamed(facts: Facts) -> Plan:
    """The path if the disk has to be read."""
    if facts.block_job:
        # Nova's own driver would abort it.
        return Plan(Path.REFUSED, 'another block job runs on the disk; take '
                    'the snapshot when it is done')
    reason = _not_ours(facts)
    if reason:
        return Plan(Path.STOCK, reason)
    if facts.power_state in _ACTIVE:
        return _choose_active(facts)
    return _choose_stopped(facts)


def _choose_active(facts: Facts) -> Plan:
    state = power_state.STATE_MAP[facts.power_state]
    wanted = _cold_wanted(facts)
    if wanted:
        not_cold = _not_cold(facts)
        if not_cold is None:
            return Plan(Path.COLD, 'the domain is %s and %s' % (state, wanted),
                        suspends=True)
        return Plan(Path.STOCK, '%s, and %s' % (wanted, not_cold))
    not_live = _not_live(facts)
    if not_live is None:
        return Plan(Path.LIVE, 'the domain is %s and its host can capture it' %
                    state)
    not_mirror = _not_mirrored(facts)
    if not_mirror is None:
        return Plan(Path.MIRROR, 'the domain is %s and %s' % (state, not_live))
    return Plan(Path.STOCK, '%s, and %s' % (not_live, not_mirror))


def _choose_stopped(facts: Facts) -> Plan:
    state = power_state.STATE_MAP.get(facts.power_state, facts.power_state)
    reason = 'the domain is %s' % state
    not_cold = _not_cold(facts)
    if facts.power_state in _STOPPED and not_cold is None:
        return Plan(Path.COLD, reason)
    return Plan(Path.STOCK, ', and '.join(filter(None, (reason, not_cold))))


def _not_ours(facts: Facts) -> str | None:
    """Why this driver cannot read the disk, and Nova's own has to."""
    disk = facts.disk
    if facts.virt_type not in ('kvm', 'qemu'):
        return 'virt_type is %s' % facts.virt_type
    if disk is None:
        return 'the domain has no disk'
    if facts.encryption or disk.encrypted:
        return 'the disk is encrypted'
    if disk.device != 'disk' or disk.read_only:
        return 'the root device is a read-only %s' % disk.device
    if disk.source.type not in _DISK_TYPES and disk.source.rbd is None:
        return 'the disk is of type %s' % disk.source.type
    if disk.source.format not in _DISK_FORMATS:
        return 'the disk has the format %s' % disk.source.format
    # Nova also knows vmdk and vdi.
    if facts.image_format not in formats.FORMATS:
        return 'the image is to have the format %s' % facts.image_format
    return None


def _cold_wanted(facts: Facts) -> str | None:
    """Why the guest should be suspended; ``None`` if not."""
    if facts.live_disabled:
        return '[workarounds] disable_libvirt_livesnapshot is set'
    if facts.live_method == 'cold':
        return '[snapdriver] live_method is cold'
    return None


def _not_live(facts: Facts) -> str | None:
    """Why the live path cannot be used; ``None`` if it can."""
    if facts.live_method == 'mirror':
        return '[snapdriver] live_method is mirror'
    if facts.missing:
        return 'this host lacks ' + ', '.join(facts.missing)
    return None


def _not_mirrored(facts: Facts) -> str | None:
    """Why the mirror path cannot be used; ``None`` if it can."""
    if facts.disk is not None and facts.disk.source.rbd is not None:
        return 'a disk on RBD is not mirrored'
    return _not_served(facts)


def _not_cold(facts: Facts) -> str | None:
    """Why the cold path cannot be used; ``None`` if it can."""
    if facts.power_state == power_state.SUSPENDED:
        return 'libvirt does not save the memory of a guest that sleeps'
    return facts.not_held or _not_served(facts)


def _not_served(facts: Facts) -> str | None:
    """Why qemu-nbd cannot export the disk, or a copy; ``None`` if it can."""
    if facts.server_missing:
        return 'this host lacks ' + ', '.join(facts.server_missing)
    return None

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

"""The options of ``[snapdriver]`` in nova.conf."""

import itertools
from typing import Any

from nova import exception
from oslo_config import cfg

GROUP = cfg.OptGroup(
    'snapdriver',
    title='Snapshot driver',
    help="""
Options of the snapshot driver, in effect with ``[DEFAULT] compute_driver =
snapdriver.SnapDriver``. Nova's own options keep their meaning: ``[libvirt]
snapshot_image_format``, ``snapshots_directory``, ``[workarounds]
disable_libvirt_livesnapshot``, ``[compute] max_concurrent_disk_ops``,
``[DEFAULT] max_concurrent_snapshots`` and all of ``[glance]``; ``[libvirt]
snapshot_compression`` holds for every way to take a snapshot.
""")

OPTS = [
    cfg.StrOpt(
        'scratch_directory',
        default='$libvirt.snapshots_directory',
        help="""
Directory for QEMU's scratch file and the socket of a live snapshot.

While a live snapshot is read, QEMU keeps there the old contents of what the
guest overwrites. It is empty in the beginning and grows with what the guest
writes during the upload, at most to the size of the root disk. Each snapshot
makes a private directory of its own below this one and removes it at the end.

Set it when the default is on a file system with too little room, when QEMU's
user cannot enter it (every directory on the way needs the x permission for
that user), or when its path is longer than 83 bytes: the path of a unix socket
may have 107.

Related options:

* ``[libvirt] snapshots_directory``
"""),
    cfg.IntOpt(
        'scratch_reserve',
        default=1024, min=0,
        help="""
Space in MiB that stays free on the file system of ``scratch_directory``.

With less than that, no live snapshot begins; and one that runs is given up,
with an error, before QEMU finds the file system full, which would stop the
guest's writes. It is for all snapshots of the host together, as the file
system is. Raise it where guests write quickly: it is looked at twice a second,
so it should hold what all guests of the host write in a second or two. 0
switches it off, which is not advised.

Related options:

* ``[snapdriver] scratch_directory``
* ``[snapdriver] scratch_limit``
"""),
    cfg.IntOpt(
        'scratch_limit',
        default=0, min=0,
        help="""
Space in MiB that one snapshot may take in ``scratch_directory``; 0 is for no
limit but ``scratch_reserve``.

A snapshot that needs more, because its guest overwrites more while the upload
runs, is given up with an error. Set it where one tenant must not take the
space of all others.

Related options:

* ``[snapdriver] scratch_directory``
* ``[snapdriver] scratch_reserve``
"""),
    cfg.IntOpt(
        'read_ahead_limit',
        default=-1, min=-1,
        help="""
Space in MiB that a live snapshot may take for what was read from the disk and
not uploaded yet; 0 is for never to read ahead, -1 for a tenth of what is free
beyond ``scratch_reserve``.

As a rule nothing is kept: the disk is read as fast as Glance takes the image,
and as long as that takes, the guest pays for the first write to each part of
its disk, and the scratch file grows. Once that has reached
``read_ahead_threshold``, the disk is read at its own speed, and what Glance
has not taken is kept in a file without a name in ``scratch_directory``. When
all has been read, the backup job ends, its scratch file is removed, and the
upload goes on from that file. With less room than it would take, the job ends
so much the earlier as there was room for.

An upload that breaks off after that cannot begin again, and a Glance with
another hash than ``hash_algorithm`` cannot be verified: the snapshot then
fails. Set it to 0 where the upload is to be tried again whatever the guest
pays for that. It is never more than half of what is free beyond
``scratch_reserve``.

Related options:

* ``[snapdriver] read_ahead_threshold``
* ``[snapdriver] scratch_directory``
* ``[snapdriver] scratch_reserve``
"""),
    cfg.IntOpt(
        'read_ahead_threshold',
        default=0, min=0,
        help="""
Space in MiB that the scratch file of a live snapshot may take before the disk
is read ahead of the upload. 0 is for a quarter of the room that it has, which
is ``scratch_limit`` or what is free beyond ``scratch_reserve``; it is never
more than that.

Lower it where guests suffer from snapshots that take long, and the disk of the
host can take the writes of ``read_ahead_limit`` more easily.

Related options:

* ``[snapdriver] read_ahead_limit``
* ``[snapdriver] scratch_limit``
"""),
    cfg.IntOpt(
        'bandwidth_limit',
        default=0, min=0,
        help="""
How much of a disk is read for a snapshot, in MiB per second, at the most; 0 is
for no limit.

Each snapshot may have that, evenly and not in bursts, also while it reads
ahead. Set it where a snapshot slows down the guests of the host. It makes
snapshots take longer, so that more is overwritten meanwhile: never set it
below what guests write.

Related options:

* ``[snapdriver] read_ahead_limit``
"""),
    cfg.IntOpt(
        'stream_nice',
        default=10, min=0, max=19,
        help="""
How much the process that reads and hashes a disk gives way to others on the
CPU, as with nice(1). Of a CPU that a guest wants, too, it gets half with 0,
some 25 percent with 5, 10 percent with 10, and 1 or 2 percent with 19; of one
that nobody wants all with each of them. Where systemd has guests and services
in groups of their own, it gives way to the other processes of nova-compute
only.

The reads themselves are made by QEMU, as its guest's are, and nova-compute
sends the image; for both of them it means nothing.
"""),
    cfg.StrOpt(
        'journal_directory',
        default='$state_path/snapdriver',
        help="""
Directory where running snapshots are noted, for what a crash leaves behind.

When nova-compute starts, it undoes the snapshots that are noted there and that
nobody takes any more: it ends their backup jobs, thaws their guests, removes
their files and deletes their unfinished images (with the credentials of
``[service_user]``). It has to be on a local file system that outlives
nova-compute (and its container), and needs a few KiB. ``nova-snapdriver list``
and ``nova-snapdriver recover`` read it.

Related options:

* ``[DEFAULT] state_path``
* ``[service_user]``
"""),
    cfg.StrOpt(
        'live_method',
        default='auto',
        choices=[
            ('auto', 'a backup job of QEMU where it has them, else a mirror'),
            ('mirror', 'a block copy into an overlay, which is then read'),
            ('cold', 'the server is suspended while its disk is copied')],
        help="""
How the disk of a running or paused server is captured.

A backup job needs room only for what the guest overwrites during the upload. A
mirror copies all that is in the disk and not in its backing file into
``scratch_directory`` first. Set it to ``mirror`` only where backup jobs do not
work although libvirt and QEMU say that they have them. With ``cold`` the
server is suspended (its memory is saved), its disk is cloned into
``scratch_directory`` where the file system shares blocks (XFS, btrfs), or else
copied, and the server goes on before the upload begins. ``[workarounds]
disable_libvirt_livesnapshot`` means ``cold``.

Related options:

* ``[workarounds] disable_libvirt_livesnapshot``
* ``[snapdriver] scratch_directory``
"""),
    cfg.IntOpt(
        'agent_timeout',
        default=10, min=1, max=600,
        help="""
Longest time in seconds that the guest's agent may take to freeze or to thaw
its file systems.

When it takes longer to freeze, the guest is thawed and the snapshot goes on
as crash-consistent, with a warning; with the image property
``os_require_quiesce=yes`` it fails. Raise it for guests with a freeze hook
that takes long (databases). There is no need to set it for guests without an
agent: they are not asked.

Related image properties: ``hw_qemu_guest_agent``, ``os_require_quiesce``.
"""),
    cfg.IntOpt(
        'freeze_timeout',
        default=10, min=1, max=600,
        help="""
Longest time in seconds that the file systems of a guest stay frozen while its
disk is captured.

A capture takes about a tenth of a second. When libvirt or QEMU takes longer
than this (a host that is overloaded, storage that hangs), the guest is thawed
and the snapshot fails. Raise it where storage is slow and guests can wait: the
snapshot service of Windows gives up after 10 seconds anyway.

Related options:

* ``[snapdriver] agent_timeout``
"""),
    cfg.BoolOpt(
        'verify',
        default=True,
        help="""
Compare the hash that Glance computed with that of the bytes that were sent.

The size is always compared. On a mismatch the image is deleted and the
snapshot fails. Turn it off only where the compute host is short of CPU:
SHA-512 takes about one core for 400 MiB/s, several times what reading the disk
takes.

Related options:

* ``[snapdriver] hash_algorithm``
"""),
    cfg.StrOpt(
        'hash_algorithm',
        default='sha512',
        choices=['sha256', 'sha384', 'sha512', 'blake2b', 'blake2s',
                 'sha3_256', 'sha3_384', 'sha3_512', 'sha1', 'md5'],
        help="""
The hash with which images are verified: what Glance has as its
``hashing_algorithm``.

If Glance turns out to use another one, the disk's captured state is read a
second time to compute that, so a wrong value costs time and nothing else, but
with ``compression`` = zlib: what is compressed a second time need not come out
the same, and the snapshot may fail.

Related options:

* ``[snapdriver] compression``
* ``[snapdriver] verify``
"""),
    cfg.StrOpt(
        'compression',
        default='none',
        choices=[
            ('none', 'clusters are sent as they are'),
            ('zlib', 'deflate, which every reader of qcow2 knows'),
            ('zstd', 'Zstandard: smaller and quicker; needs QEMU 5.1 or later '
                     'wherever the image is read, and the Python package '
                     'zstandard here')],
        help="""
Compression of the clusters of qcow2 images.

The disk is read twice: first all of it is compressed, then the image, whose
length is known by then, is sent. That pays where the bytes that are saved take
longer to send and to store than a second pass over the disk, and the host has
CPU to spare; it does not for disks full of what is compressed already, such as
media or encrypted files. Clusters that read as zeros are left out, and those
that do not shrink are sent as they are. As the upload begins after the first
pass, a live snapshot takes a little longer to let go of its scratch file.

Raw images are not compressed. The default is none; with ``[libvirt]
snapshot_compression = true`` it is zlib, unless another is named here. If what
it needs is missing, nova-compute says so when it starts, and the image is not
compressed.

Related options:

* ``[libvirt] snapshot_compression``
* ``[libvirt] snapshot_image_format``
* ``[snapdriver] compression_threads``
* ``[snapdriver] compression_spool_limit``
"""),
    cfg.IntOpt(
        'compression_threads',
        default=0, min=0, max=16,
        help="""
Number of threads of each snapshot that compress; 0 for one on each CPU that
nova-compute may use, and not more than 16.

Set it where snapshots must leave CPU to the guests. On two CPUs two threads
compress about 150 MiB/s with zstd, and with zlib where the Python package isal
is installed (without it, about 50 MiB/s).

Related options:

* ``[snapdriver] compression``
"""),
    cfg.IntOpt(
        'compression_spool_limit',
        default=20480, min=0,
        help="""
Space in MiB for what a snapshot has compressed in its first pass over the
disk, so that the second one only sends it.

The first 32 MiB of it are kept in memory, the rest in a file in
``scratch_directory`` that nobody else can open and that goes away with the
process. It never takes more than half of what is free there beyond
``scratch_reserve``. What does not fit is compressed again in the second pass,
which takes CPU and no space. With 0 all of it is.

Related options:

* ``[snapdriver] compression``
* ``[snapdriver] scratch_directory``
* ``[snapdriver] scratch_reserve``
"""),
    cfg.BoolOpt(
        'detect_zeroes',
        default=False,
        help="""
Look for zeros in disks that are said to be all data, and leave them out of
qcow2 images.

A raw block device, and a raw file that was allocated in advance, does not say
which parts of it were never written. Such a disk is then read twice: once to
find its zeros and once to send the rest. Set it where ``[libvirt]
snapshot_image_format`` is qcow2, disks are of these kinds and mostly empty. It
does nothing for raw images, which have the size of the disk in any case, and
is not needed with ``compression``, which finds zeros anyway.

Related options:

* ``[libvirt] snapshot_image_format``
* ``[snapdriver] compression``
"""),
    cfg.IntOpt(
        'upload_stall_timeout',
        default=300, min=10,
        help="""
Longest time in seconds that Glance may take none of the bytes that are offered
to it, or give no answer once it has them all.

Past it the connection is closed and the upload is tried again, ``[glance]
num_retries`` times. Raise it where Glance's store takes long to commit a large
image.

Related options:

* ``[glance] num_retries``
"""),
    cfg.IntOpt(
        'progress_interval',
        default=30, min=1,
        help="""
Time in seconds between two lines in the log that say how far an upload is.
"""),
]


def register_opts(conf: cfg.ConfigOpts) -> None:
    """Make the options known to a configuration."""
    conf.register_group(GROUP)
    conf.register_opts(OPTS, group=GROUP)


def list_opts() -> list[tuple[cfg.OptGroup, 'itertools.chain[cfg.Opt]']]:
    """The options, for oslo-config-generator."""
    return [(GROUP, itertools.chain(OPTS))]


def check(conf: cfg.ConfigOpts) -> None:
    """Read every option once, so that a wrong value shows at the start.

    Options of a driver are registered after nova.conf has been parsed, which
    would otherwise put the error off until the first snapshot.

    :raises nova.exception.InvalidConfiguration: a value is wrong
    """
    group: Any = conf[GROUP.name]
    for option in OPTS:
        try:
            getattr(group, option.dest)
        except (ValueError, cfg.Error) as ex:
            raise exception.InvalidConfiguration(
                '[%s] %s in nova.conf: %s' %
                (GROUP.name, option.name, ex)) from ex

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
import os
from typing import Any

from nova import exception
from oslo_config import cfg

GROUP = cfg.OptGroup(
    'snapdriver',
    title='Snapshot driver',
    help="""
Options of the snapshot driver, used with ``[DEFAULT] compute_driver =
snapdriver.SnapDriver``. Nova's own options keep their meaning: ``[libvirt]
snapshot_image_format``, ``snapshots_directory``, ``[workarounds]
disable_libvirt_livesnapshot``, ``[compute] max_concurrent_disk_ops``,
``[DEFAULT] max_concurrent_snapshots`` and all of ``[glance]``. ``[libvirt]
snapshot_compression`` applies to every snapshot path.
""")

OPTS = [
    cfg.StrOpt(
        'scratch_directory',
        default='$libvirt.snapshots_directory',
        help="""
Directory for the scratch file and the NBD socket of a snapshot.

While a live snapshot is read, QEMU copies to the scratch file what the guest
overwrites. The file is empty at first and grows with the guest's writes until
the upload ends, at most to the size of the root disk. The copies that
``live_method`` = ``mirror`` or ``cold`` makes are here, too. Each snapshot
creates a private directory below this one and removes it at the end.

Set it when the default is on a file system with too little space, when QEMU's
user cannot enter it (every directory on the path needs the x permission for
that user), or when its path is longer than 83 bytes: the path of a UNIX socket
is limited to 107.

Related options:

* ``[libvirt] snapshots_directory``
* ``[snapdriver] scratch_limit``
* ``[snapdriver] scratch_reserve``
"""),
    cfg.IntOpt(
        'scratch_reserve',
        default=1024, min=0,
        help="""
Space, in MiB, to keep free on the file system of ``scratch_directory``.

With less than that free, no live snapshot starts and no copy of a disk is
made, and the live snapshot that uses most is aborted with an error, then the
next: if the file system became full, QEMU would fail the guest's writes. The
reserve is for all snapshots of the host together.

Raise it where guests write fast. Free space is checked twice a second, so the
reserve should hold what all guests of the host write in a second or two. 0
disables the check, which is not recommended.

Related options:

* ``[snapdriver] scratch_directory``
* ``[snapdriver] scratch_limit``
"""),
    cfg.IntOpt(
        'scratch_limit',
        default=0, min=0,
        help="""
Maximum space, in MiB, that one snapshot may use in ``scratch_directory``; 0
means that only ``scratch_reserve`` limits it.

A snapshot that needs more, because its guest overwrites more during the
upload, is aborted with an error. Set it so that one tenant cannot use up the
space for the snapshots of all others.

Related options:

* ``[snapdriver] scratch_directory``
* ``[snapdriver] scratch_reserve``
"""),
    cfg.IntOpt(
        'read_ahead_limit',
        default=-1, min=-1,
        help="""
Maximum space, in MiB, for data that a live snapshot has read from the disk but
not uploaded yet; 0 disables reading ahead, -1 means a tenth of the space that
is free beyond ``scratch_reserve``.

Normally no such data are stored: the disk is read as fast as Glance accepts
the image. Until the last read, the guest's first write to each part of its
disk waits for a copy, and the scratch file grows. When the scratch file
reaches ``read_ahead_threshold``, the disk is read at full speed, and what
Glance has not accepted yet is stored in an unnamed file in
``scratch_directory``. When the whole disk has been read, the backup job ends,
its scratch file is removed, and the upload continues from the stored data. The
smaller the limit, the later that is.

If the upload then breaks off, it cannot restart, and if Glance uses another
hash than for the images before, the image cannot be verified: in both cases
the snapshot fails. Set it to 0 where restarting an upload matters more than
the guest's writes. All snapshots of the host together leave half of what was
free beyond ``scratch_reserve``, and one takes at most half of its
``scratch_limit``.

Related options:

* ``[snapdriver] read_ahead_threshold``
* ``[snapdriver] scratch_directory``
* ``[snapdriver] scratch_reserve``
"""),
    cfg.IntOpt(
        'read_ahead_threshold',
        default=0, min=0,
        help="""
Size of the scratch file of a live snapshot, in MiB, above which the disk is
read ahead of the upload; 0 means a quarter of the space available to the
scratch file (``scratch_limit``, or what is free beyond ``scratch_reserve``),
which is also the maximum.

Lower it where long snapshots slow down guests and the host's disk can absorb
the data that ``read_ahead_limit`` allows.

Related options:

* ``[snapdriver] read_ahead_limit``
* ``[snapdriver] scratch_limit``
"""),
    cfg.IntOpt(
        'bandwidth_limit',
        default=0, min=0,
        help="""
Maximum read rate of each snapshot, in MiB per second; 0 means unlimited.

Reads are spread evenly and not made in bursts, also while reading ahead. Set
it where snapshots slow down the guests of the host. Snapshots then take
longer, and guests overwrite more meanwhile: do not set it below the rate at
which a guest writes.

Related options:

* ``[snapdriver] read_ahead_limit``
"""),
    cfg.IntOpt(
        'stream_nice',
        default=10, min=0, max=19,
        help="""
Niceness, as with nice(1), of the process that reads and hashes a disk.

Where a guest competes for a CPU, the process gets half of it with 0, about 25
percent with 5, 10 percent with 10, and 1 or 2 percent with 19; an idle CPU it
always gets whole. Raise it where snapshots take CPU from guests, lower it
where they take too long on busy hosts.

It does not apply to the reads themselves, which QEMU makes in the guest's own
process, nor to the upload, which nova-compute makes. Where systemd puts guests
and services into separate control groups, it matters only among the processes
of nova-compute.
"""),
    cfg.StrOpt(
        'journal_directory',
        default='$state_path/snapdriver',
        help="""
Directory of the journal of running snapshots, which is used to clean up after
a crash.

When nova-compute starts, it undoes the snapshots that a previous process left
in the journal: it ends their backup jobs, thaws their guests, removes their
files and deletes their unfinished images (with the credentials of
``[service_user]``). ``nova-snapdriver list`` and ``nova-snapdriver recover``
read the journal, too.

Set it when ``state_path`` is not on a local file system or does not outlive
nova-compute and its container. The journal needs a few KiB.

Related options:

* ``[DEFAULT] state_path``
* ``[service_user]``
"""),
    cfg.StrOpt(
        'live_method',
        default='auto',
        choices=[
            ('auto', 'a QEMU backup job where available, else a mirror'),
            ('mirror', 'a block copy of the disk, which is then read'),
            ('cold', 'suspend the server while its disk is copied')],
        help="""
How to capture the disk of a running or paused server.

A backup job needs space only for what the guest overwrites during the upload.

A mirror first copies everything that is in the disk and not in its backing
file into ``scratch_directory``. Set ``mirror`` only where backup jobs fail
although libvirt and QEMU report support for them.

With ``cold``, the server is suspended (its memory is saved), its disk is
cloned into ``scratch_directory`` where the file system supports that (XFS,
btrfs), else copied, and the server is resumed before the upload starts.
``[workarounds] disable_libvirt_livesnapshot`` implies ``cold``.

Related options:

* ``[workarounds] disable_libvirt_livesnapshot``
* ``[snapdriver] scratch_directory``
"""),
    cfg.IntOpt(
        'agent_timeout',
        default=10, min=1, max=600,
        help="""
Maximum time, in seconds, that the guest agent may take to freeze or to thaw
the guest's file systems.

If the freeze takes longer, the guest is thawed, and the snapshot continues as
crash-consistent, with a warning; with the image property
``os_require_quiesce=yes`` it fails. Raise it for guests whose freeze hooks
take long (databases). It has no effect on guests without an agent.

Related image properties: ``hw_qemu_guest_agent``, ``os_require_quiesce``.
"""),
    cfg.IntOpt(
        'freeze_timeout',
        default=10, min=1, max=600,
        help="""
Maximum time, in seconds, that the file systems of a guest stay frozen while
its disk is captured.

A capture takes about a tenth of a second. If libvirt or QEMU takes longer than
this (an overloaded host, storage that hangs), the guest is thawed and the
snapshot fails. Raise it where storage is slow and guests tolerate the wait.
Windows guests gain nothing from more than 10 seconds: their shadow copy
service gives up then.

Related options:

* ``[snapdriver] agent_timeout``
"""),
    cfg.BoolOpt(
        'snapdriver_properties',
        default=True,
        help="""
Set the properties ``snapdriver_path``, ``snapdriver_consistency`` and
``snapdriver_captured_at`` of the image.

Where Glance refuses them (``property_protection_file``,
``image_property_quota``), the image does without, and nova-compute logs a
warning for each snapshot. Disable them there.
"""),
    cfg.BoolOpt(
        'verify',
        default=True,
        help="""
Compare the hash that Glance computed with the hash of what was sent.

On a mismatch the image is deleted and the snapshot fails. The size is compared
in any case. Disable it only where the compute host lacks CPU: SHA-512 takes
about one core for 400 MiB/s, several times what reading the disk takes.
SHA-256 takes half of that on CPUs with instructions for it: where
``hashing_algorithm = sha256`` is set in Glance, both sides gain.

The hash is the one that Glance computed of the last image that nova-compute
has verified, and before that, of the image that the server was made from.
Should Glance use another one, the disk is read a second time.

With ``destination = rbd`` it means that what was written is read from Ceph
again and compared, before Glance is told of it. Of a disk that Ceph copies
(path ``direct``) nothing is compared.

Related options:

* ``[snapdriver] destination``
"""),
    cfg.StrOpt(
        'compression',
        default='none',
        choices=[
            ('none', 'send clusters as they are'),
            ('zlib', 'deflate, supported by every reader of qcow2'),
            ('zstd', 'Zstandard: smaller and faster; requires QEMU 5.1 or '
                     'later wherever the image is read, and the Python '
                     'package zstandard on this host')],
        help="""
Compression of the clusters of qcow2 images.

Use it where sending and storing the saved bytes would take longer than to
compress, and the host has spare CPU. The disk is read once. Before that, some
percent of its data are compressed to predict the size of the image. If they
do not shrink by 5 percent (media, encrypted files), the image is sent as it
is, and the log says so. Clusters of zeros are left out, and clusters that do
not shrink are sent as they are.

Raw images are not compressed. With ``[libvirt] snapshot_compression = true``,
``none`` means ``zlib``. If something that the codec requires is missing,
nova-compute logs a warning when it starts, and images are not compressed.

Related options:

* ``[libvirt] snapshot_compression``
* ``[libvirt] snapshot_image_format``
* ``[snapdriver] compression_threads``
"""),
    cfg.IntOpt(
        'compression_threads',
        default=0, min=0, max=16,
        help="""
Number of threads that compress, for each snapshot; 0 means one for each CPU
that nova-compute may use, up to 16.

Set it where snapshots must leave CPU to the guests. On two CPUs, two threads
compress about 150 MiB/s with zstd, and with zlib if the Python package isal is
installed (about 50 MiB/s without it).

Related options:

* ``[snapdriver] compression``
"""),
    cfg.StrOpt(
        'store',
        default='',
        help="""
Store of Glance that takes the images, of those that ``enabled_backends`` in
glance-api.conf names; empty means Glance's default store.

``base`` means the store of the image that the server was made from, and the
default store if that image is deleted or its store takes no uploads. If Glance
has no store of this name, the snapshot fails before the guest is touched, and
the error names the stores there are.

Set it where snapshots belong on other storage than images that are uploaded
by users. It is for what this driver uploads: a disk that Ceph copies goes into
the pool of the image that the server was made from, which happens only if that
image is in the store named here, and snapshots that Nova's own driver takes go
into Glance's default store.
"""),
    cfg.StrOpt(
        'destination',
        default='glance',
        choices=[
            ('glance', 'upload the image to Glance'),
            ('rbd', "write it into Ceph, where Glance's store is, and tell "
                    'Glance where it is')],
        help="""
Where this host sends images.

Set ``rbd`` where Glance keeps its images in Ceph, this host reaches that
cluster, and images are raw (``[libvirt] snapshot_image_format = raw``). A
snapshot then takes the time of its data and not that of the size of its disk,
and Glance's CPU takes no part in it. It needs the Python bindings of librbd, a
user of Ceph with ``profile rbd`` for the monitors and for that pool, and a
Glance that lets users set locations, as for disks in Ceph.

Where the image is to have another format, or Ceph or Glance refuses, it is
uploaded to Glance; the log says why.

Related options:

* ``[snapdriver] rbd_pool``
* ``[snapdriver] rbd_user``
* ``[snapdriver] rbd_ceph_conf``
* ``[snapdriver] verify``
"""),
    cfg.StrOpt(
        'rbd_pool',
        default='',
        help="""
Pool of Glance's store in Ceph, for ``destination = rbd``; empty means the pool
of the image that the server was made from.

Set it where servers are made from images that are elsewhere or deleted, or
where Glance does not show the locations of images.
"""),
    cfg.StrOpt(
        'rbd_user',
        default='',
        help="""
User of Ceph, without ``client.``, that writes images with ``destination =
rbd``; empty means ``[libvirt] rbd_user``.

Set it where Nova has no user of Ceph, or to use one that may write into that
pool alone.
"""),
    cfg.StrOpt(
        'rbd_ceph_conf',
        default='',
        help="""
Path of the ceph.conf of the cluster of Glance's store, for ``destination =
rbd``; empty means ``[libvirt] images_rbd_ceph_conf``, or else Ceph's default.
"""),
    cfg.IntOpt(
        'upload_stall_timeout',
        default=300, min=10,
        help="""
Maximum time, in seconds, during which Glance accepts no data, or does not
answer after it has received all of them.

After that the connection is closed and the upload is retried, up to ``[glance]
num_retries`` times. Raise it where Glance's store takes long to commit a large
image.

With ``destination = rbd`` it is also the maximum time for one operation of
Ceph. After that the image is uploaded to Glance.

Related options:

* ``[glance] num_retries``
* ``[snapdriver] destination``
"""),
    cfg.IntOpt(
        'progress_interval',
        default=30, min=1,
        help="""
Interval, in seconds, between two log lines that report the progress of an
upload. Raise it where snapshots of large disks fill the log.
"""),
]


def register_opts(conf: cfg.ConfigOpts) -> None:
    """Register the options of this driver."""
    conf.register_group(GROUP)
    conf.register_opts(OPTS, group=GROUP)


def list_opts() -> list[tuple[cfg.OptGroup, 'itertools.chain[cfg.Opt]']]:
    """The options, for oslo-config-generator."""
    return [(GROUP, itertools.chain(OPTS))]


def check(conf: cfg.ConfigOpts) -> None:
    """Read every option once, so that an invalid value shows at the start.

    The options are registered after nova.conf was parsed, so oslo.config
    would report an invalid value only at the first snapshot.

    :raises nova.exception.InvalidConfiguration: a value is invalid
    """
    group: Any = conf[GROUP.name]
    for option in OPTS:
        try:
            getattr(group, option.dest)
        except (ValueError, cfg.Error) as ex:
            raise exception.InvalidConfiguration(
                '[%s] %s in nova.conf: %s' %
                (GROUP.name, option.name, ex)) from ex
    if not os.path.isabs(group.scratch_directory):
        # It would be below the directory that nova-compute was started in.
        raise exception.InvalidConfiguration(
            '[%s] scratch_directory in nova.conf is "%s", and has to be an '
            'absolute path' % (GROUP.name, group.scratch_directory))

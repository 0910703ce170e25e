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

"""Ways to bring a server's disk into Glance's pool in Ceph, as a raw image."""

import collections.abc
import dataclasses
import pathlib

from lab.bench import contenders
from lab.bench import figures
from lab.bench import phases
from lab.bench import usage
from lab.observe import disks
from lab.observe import measure
from lab.openstack import ceph
from lab.openstack import config
from lab.openstack import settings

RAW = ('libvirt', 'snapshot_image_format', 'raw')
# Where no Nova and no Glance are in the way.
IMAGE = f'{contenders.NAME}-image'
TARGET = f'{ceph.IMAGES}/{IMAGE}'
# As Glance's store makes them.
OBJECT_SIZE = '8M'
WRITTEN = config.Compute(rbd=True, options=disks.WRITTEN)

# Returns a command that writes an image into the pool.
Command = collections.abc.Callable[[contenders.Subject], list[str]]


def _writing(command: Command, made: bool = False) -> contenders.Take:
    """Time a command.

    :param made: it wants an empty image
    """
    def take(subject: contenders.Subject, row: figures.Row) -> figures.Row:
        argv, cluster = command(subject), subject.lab.ceph
        measure.settle([subject.template])
        if made:
            cluster.rbd('create', TARGET, '--object-size', OBJECT_SIZE,
                        '--size', f'{subject.bytes}B')
        try:
            return _written(row, usage.timed(subject.log, *argv))
        finally:
            _remove(cluster)

    return take


def _written(row: figures.Row, took: usage.Timed) -> figures.Row:
    return dataclasses.replace(contenders.timed(row, took),
                               phases={'upload': took.seconds})


def _remove(cluster: ceph.Ceph) -> None:
    if IMAGE not in cluster.listed('ls', ceph.IMAGES):
        return
    for name in cluster.listed('snap', 'ls', TARGET):
        cluster.rbd('snap', 'unprotect', f'{TARGET}@{name}')
        cluster.rbd('snap', 'rm', f'{TARGET}@{name}')
    cluster.rbd('rm', '--no-progress', TARGET)


def _stream(subject: contenders.Subject, row: figures.Row) -> figures.Row:
    """Run our process alone, which verifies what it has written."""
    with contenders.exported(subject.template, subject.disk_format,
                             subject.folder) as socket:
        return _writing(lambda subject: stream(
            subject.lab.settings, socket, subject.lab.ceph.conf))(
                subject, row)


def stream(conf: settings.Settings, socket: str,
           ceph_conf: pathlib.Path) -> list[str]:
    """Return our writer's command."""
    # As nova-compute has it.
    return ['env', 'MALLOC_ARENA_MAX=2',
            conf.bin('python'), '-P', '-m', 'nova_snapdriver.stream',
            '--socket', socket, '--format', 'raw', '--rbd-verify',
            '--rbd-pool', ceph.IMAGES, '--rbd-image', IMAGE,
            '--rbd-user', ceph.GLANCE, '--rbd-conf', str(ceph_conf)]


def _convert(subject: contenders.Subject) -> list[str]:
    conf = subject.lab.ceph.conf
    return ['qemu-img', 'convert', '-n', '-W', '-m', '16',
            '--target-is-zero', '-f', subject.disk_format, '-O', 'raw',
            str(subject.template),
            f'rbd:{TARGET}:id={ceph.GLANCE}:conf={conf}']


def _import(subject: contenders.Subject) -> list[str]:
    return ['rbd', '--conf', str(subject.lab.ceph.conf), '--id',
            ceph.GLANCE, 'import', '--no-progress', '--object-size',
            OBJECT_SIZE, str(subject.finish()), TARGET]


# In the order of their runs, so that nova-compute starts seldom.
CONTENDERS: dict[str, contenders.Contender] = {
    'ceph-direct': contenders.Contender(
        'snapdriver, destination = rbd',
        contenders.snapshot(phases.OURS), WRITTEN),
    'ceph-write': contenders.Contender(
        'snapdriver, writing and verifying alone', _stream),
    'ceph-convert': contenders.Contender(
        'qemu-img convert, writing alone', _writing(_convert, made=True)),
    'ceph-import': contenders.Contender(
        'rbd import, finished file', _writing(_import)),
    'ceph-glance': contenders.Contender(
        'snapdriver, through Glance', contenders.snapshot(phases.OURS),
        config.Compute(options=(RAW,))),
    'ceph-curl': contenders.Contender(
        'curl through Glance, finished file', contenders.curl),
    'ceph-stock': contenders.Contender(
        "Nova's own", contenders.snapshot(phases.STOCK),
        config.Compute('stock', options=(RAW,))),
}
ALL = contenders.CONTENDERS | CONTENDERS

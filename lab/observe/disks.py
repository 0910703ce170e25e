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

"""Kinds of root disk, and the options of nova-compute that make them."""

import pathlib

from lab.observe import measure
from lab.openstack import ceph
from lab.openstack import config
from lab.openstack import process
from lab.openstack import settings

# An image needs a name for each kind: Nova caches it in the format that the
# options asked for when it was first used.
DISKS: dict[str, config.Options] = {
    'overlay': (),
    'qcow2': (('libvirt', 'images_type', 'flat'),
              ('DEFAULT', 'force_raw_images', 'false')),
    'raw': (('libvirt', 'images_type', 'flat'),),
    # Nova's block devices are of LVM, which needs a device mapper, and a
    # container's kernel may have none. Here a loop device on Nova's raw file
    # is put into the definition of the server's domain.
    'block': (('libvirt', 'images_type', 'flat'),),
    # On Ceph, with the server's image on Ceph, too, or in a file.
    'rbd': (),
    'rbd-file': (),
}
FORMATS = {'overlay': 'qcow2', 'qcow2': 'qcow2'}
# How Glance runs for a kind of disk, if not by default.
IMAGES = {'rbd': config.Images(('rbd', 'file')),
          'rbd-file': config.Images(('file', 'rbd'))}

VMDK: config.Options = (('libvirt', 'snapshot_image_format', 'vmdk'),)
MIRROR: config.Options = (('snapdriver', 'live_method', 'mirror'),)
SUSPEND: config.Options = (('snapdriver', 'live_method', 'cold'),)
QCOW2: config.Options = (('libvirt', 'snapshot_image_format', 'qcow2'),)
ZSTD: config.Options = (('snapdriver', 'compression', 'zstd'),)
# By Nova's own option.
ZLIB: config.Options = (('libvirt', 'snapshot_compression', 'true'),)


# Images are written into Glance's pool, by a nova-compute that knows Ceph.
WRITTEN: config.Options = (
    ('libvirt', 'snapshot_image_format', 'raw'),
    ('snapdriver', 'destination', 'rbd'),
    ('snapdriver', 'rbd_pool', ceph.IMAGES),
    ('snapdriver', 'rbd_user', ceph.GLANCE))
IN_CEPH = config.Images(('rbd', 'file'))


def written(conf: settings.Settings) -> config.Options:
    """Return the same, for a nova-compute that does not."""
    return (*WRITTEN, ('snapdriver', 'rbd_ceph_conf', str(conf.ceph_conf)))


def disk_format(kind: str) -> str:
    """Return the format of a kind of disk."""
    return FORMATS.get(kind, 'raw')


def use_device(server: measure.Server, definition: pathlib.Path) -> str:
    """Restart a server's domain with its disk on a loop device.

    Quickly: Nova looks at a domain some seconds after it has stopped.

    :param definition: where to write its new definition
    :returns: the device
    """
    loop = process.output('losetup', '-f', '--show', server.disk).strip()
    server.domain.use_disk(loop, definition, 'block')
    server.domain.stop()
    server.domain.start()
    return loop

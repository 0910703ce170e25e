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
from lab.openstack import config
from lab.openstack import domain
from lab.openstack import process
from lab.openstack import settings

Options = tuple[tuple[str, str, str], ...]

# How Nova makes a root disk, by the options of nova-compute. An image needs a
# name for each: Nova caches it as the options said when it came first.
DISKS: dict[str, Options] = {
    'overlay': (),
    'qcow2': (('libvirt', 'images_type', 'flat'),
              ('DEFAULT', 'force_raw_images', 'false')),
    'raw': (('libvirt', 'images_type', 'flat'),),
    # Nova has block devices from LVM, which needs a device mapper that a
    # container's kernel has not. Here the raw file of Nova's is put on a loop
    # device, and the device into the definition of the server's domain.
    'block': (('libvirt', 'images_type', 'flat'),),
    # On Ceph: with the server's image there, too, and with it in a file.
    'rbd': (),
    'rbd-file': (),
}
FORMATS = {'overlay': 'qcow2', 'qcow2': 'qcow2'}
# How Glance runs, by the kind of disk; as ever for those that are not here.
IMAGES = {'rbd': config.Images(('rbd', 'file')),
          'rbd-file': config.Images(('file', 'rbd'))}
VMDK: Options = (('libvirt', 'snapshot_image_format', 'vmdk'),)
MIRROR: Options = (('snapdriver', 'live_method', 'mirror'),)
SUSPEND: Options = (('snapdriver', 'live_method', 'cold'),)
# Compressed images, the second by Nova's own option.
QCOW2: Options = (('libvirt', 'snapshot_image_format', 'qcow2'),)
ZSTD: Options = (('snapdriver', 'compression', 'zstd'),)
ZLIB: Options = (('libvirt', 'snapshot_compression', 'true'),)


def use_device(server: measure.Server, definition: pathlib.Path) -> str:
    """Start the server's domain again with its disk on a loop device.

    Nova looks at a domain that stopped only seconds later.

    :param definition: where its new definition is to be written
    :returns: the device
    """
    loop = process.output('losetup', '-f', '--show',
                          str(server.disk)).strip()
    xml = domain.virsh('dumpxml', '--inactive', server.domain.name)
    file, device = f"file='{server.disk}'", f"dev='{loop}'"
    changed = xml.replace(file, device).replace(
        "<disk type='file' device='disk'>",
        "<disk type='block' device='disk'>", 1)
    if changed.count(device) != 1 or file in changed:
        raise settings.LabError(f'{server.disk} is not in {xml}')
    definition.write_text(changed)
    domain.virsh('destroy', server.domain.name)
    domain.virsh('define', str(definition))
    domain.virsh('start', server.domain.name)
    return loop

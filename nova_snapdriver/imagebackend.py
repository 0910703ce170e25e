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

"""The root disk, as the live XML of its domain describes it.

Everything comes from libvirt. No format is ever probed from the contents of a
disk, which a guest can write.
"""

import dataclasses

from lxml import etree

from nova_snapdriver import exception

# XML from libvirt has no entities and no external references.
_PARSER = etree.XMLParser(resolve_entities=False, no_network=True)

# The attribute that holds the path of a source, by the type of the disk.
PATH_ATTRIBUTES = {'file': 'file', 'block': 'dev'}


@dataclasses.dataclass(frozen=True)
class Rbd:
    """An image in a Ceph cluster.

    :param monitors: (host, port) of each; an empty port is the default one
    :param user: Ceph user without "client."; ``None`` for librados' default
    :param conf: path of ceph.conf; ``None`` for librados' default
    :param snapshot: name of a snapshot of the image, if that is meant
    """

    pool: str
    image: str
    monitors: tuple[tuple[str, str], ...] = ()
    user: str | None = None
    conf: str | None = None
    snapshot: str | None = None

    @property
    def path(self) -> str:
        """The path by which Nova's image backend finds it."""
        return 'rbd:%s/%s' % (self.pool, self.image)


@dataclasses.dataclass(frozen=True)
class Source:
    """One image of a disk's backing chain.

    :param type: libvirt's type of the source (file, block, network, …)
    :param format: QEMU's name of the format (raw, qcow2, …)
    :param path: on this host; ``None`` for an image elsewhere
    :param rbd: the image in Ceph, if it is there
    """

    type: str
    format: str
    path: str | None
    encrypted: bool = False
    rbd: Rbd | None = None


@dataclasses.dataclass(frozen=True)
class RootDisk:
    """The disk to take a snapshot of.

    :param target: device name in the domain (vda)
    :param device: libvirt's kind of device (disk, cdrom, …)
    :param source: the top image
    :param backing: the images below it, nearest first
    """

    target: str
    device: str
    source: Source
    backing: tuple[Source, ...] = ()
    read_only: bool = False

    @property
    def encrypted(self) -> bool:
        """Whether any image of the chain is encrypted."""
        return any(source.encrypted for source in (self.source, *self.backing))


def parse(xml: str) -> etree._Element:
    """Parse XML from libvirt."""
    return etree.fromstring(xml.encode(), _PARSER)


def root_disk(domain: etree._Element) -> RootDisk | None:
    """The first disk of a domain, which Nova takes for its root disk.

    :param domain: the parsed live XML
    :returns: ``None`` if the domain has no disk (a container)
    :raises DiskUnusable: the XML names no format for it
    """
    disk = domain.find('devices/disk')
    return None if disk is None else _described(disk)


def find_disk(domain: etree._Element, target: str | None) -> RootDisk | None:
    """A disk of any domain, which Nova need not have made.

    :param domain: the parsed live XML
    :param target: as ``<target dev=…>`` has it (vda); ``None`` for the first
        one that is no CD-ROM or floppy
    :returns: ``None`` if the domain has no such disk
    :raises DiskUnusable: the XML names no format for it
    """
    for disk in domain.iterfind('devices/disk'):
        if (disk.get('device', 'disk') == 'disk' if target is None
                else disk.find('target').get('dev') == target):
            return _described(disk)
    return None


def _described(disk: etree._Element) -> RootDisk:
    target = disk.find('target')
    name = '' if target is None else target.get('dev', '')
    return RootDisk(
        target=name,
        device=disk.get('device', 'disk'),
        source=_source(disk, 'driver', 'type', name),
        backing=_backing(disk, name),
        read_only=disk.find('readonly') is not None)


def _source(element: etree._Element, tag: str, attribute: str,
            target: str) -> Source:
    kind = element.get('type', '')
    driver = element.find(tag)
    disk_format = None if driver is None else driver.get(attribute)
    if not disk_format:
        raise exception.DiskUnusable(
            reason='the XML of the domain names no format for disk %s, and '
                   'nothing that a guest can write is probed' % target)
    source = element.find('source')
    path = None
    if source is not None and kind in PATH_ATTRIBUTES:
        path = source.get(PATH_ATTRIBUTES[kind])
    encrypted = (element.find('encryption') is not None or
                 element.find('source/encryption') is not None)
    return Source(kind, disk_format, path, encrypted, _rbd(source))


def _rbd(source: etree._Element | None) -> Rbd | None:
    """The RBD image that a source names; ``None`` for any other source."""
    if source is None or source.get('protocol') != 'rbd':
        return None
    pool, _, image = source.get('name', '').partition('/')
    # With a namespace there are three parts; Nova does not use namespaces.
    if not (pool and image) or '/' in image:
        return None
    auth = source.find('auth')
    return Rbd(pool, image, tuple(
        (host.get('name', ''), host.get('port', ''))
        for host in source.iterfind('host')),
        None if auth is None else auth.get('username'))


def _backing(disk: etree._Element, target: str) -> tuple[Source, ...]:
    """The backing chain of a disk, nearest image first."""
    chain = []
    store = disk.find('backingStore')
    # Libvirt ends the chain with an empty element.
    while store is not None and store.get('type'):
        chain.append(_source(store, 'format', 'type', target))
        store = store.find('backingStore')
    return tuple(chain)

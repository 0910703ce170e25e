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

"""Describe a disk as QEMU's BlockdevOptions, so that nothing is probed."""

from collections.abc import Callable
from collections.abc import Sequence
import json
from typing import Any

from nova_snapdriver import exception
from nova_snapdriver import imagebackend

Node = dict[str, Any]


def _file(source: imagebackend.Source) -> Node:
    return {'driver': 'file', 'filename': source.path, 'locking': 'on'}


def _block(source: imagebackend.Source) -> Node:
    return {'driver': 'host_device', 'filename': source.path}


def _rbd(source: imagebackend.Source) -> Node:
    """In Ceph; librados finds the user's key through ceph.conf."""
    image = source.rbd
    if image is None or image.snapshot is None:
        raise exception.DiskUnusable(
            reason='an image of the disk is of type %s' % source.type)
    given = {'conf': image.conf, 'user': image.user}
    return {'driver': 'rbd', 'pool': image.pool, 'image': image.image,
            'snapshot': image.snapshot,
            **{name: value for name, value in given.items() if value}}


# QEMU's protocol node of an image, by libvirt's type of the source.
_PROTOCOLS: dict[str, Callable[[imagebackend.Source], Node]] = {
    'file': _file,
    'block': _block,
    'network': _rbd,
}


def describe(chain: Sequence[imagebackend.Source]) -> Node:
    """Build the BlockdevOptions for a disk.

    Every level names its driver, so QEMU probes no format and ignores the
    backing file that an image's header names.

    :param chain: the images of the disk, top first. Images below a raw one
        are left out, as a raw image has no backing file.
    :raises DiskUnusable: an image is of an unknown type or format
    """
    top, *below = chain
    if top.type not in _PROTOCOLS:
        raise exception.DiskUnusable(
            reason='an image of the disk is of type %s' % top.type)
    protocol = _PROTOCOLS[top.type](top)
    if top.format == 'raw':
        return _format('raw', file=protocol)
    if top.format == 'qcow2':
        return _format('qcow2', file=protocol,
                       backing=describe(below) if below else None)
    raise exception.DiskUnusable(
        reason='an image of the disk has the format %s' % top.format)


def _format(driver: str, **children: Node | None) -> Node:
    return {'driver': driver, 'read-only': True, **children}


def exclusive(disk: Node) -> Node:
    """The same disk, locked against writers in other processes.

    QEMU's qcow2 driver locks an image by itself, because its metadata must not
    change; the raw driver allows writers. QEMU's blkdebug can "unshare" a
    permission on the node below it, which the file driver then turns into the
    image lock (BlockdevOptionsBlkdebug, since QEMU 4.2).
    """
    if disk['driver'] != 'raw':
        return disk
    return {**disk, 'file': {'driver': 'blkdebug', 'image': disk['file'],
                             'unshare-child-perms': ['write', 'resize']}}


def description(chain: Sequence[imagebackend.Source]) -> str:
    """The JSON with which qemu-nbd opens a disk, locked against writers.

    :param chain: the images of the disk, top first
    :raises DiskUnusable: an image is of an unknown type or format
    """
    return json.dumps(exclusive(describe(chain)))

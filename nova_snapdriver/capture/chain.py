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

"""The backing chain of a disk whose domain is stopped, from its headers.

The XML of a stopped domain does not contain the backing chain. The header of a
qcow2 image does: QEMU and Nova write it, the guest can only write clusters. A
QEMU that was taken over can write it, too: so a backing file is one where Nova
keeps them, and its format is what Nova has noted. A raw image is never
inspected, as the guest can write all of it.
"""

import json
import os
import re
from typing import Any

import nova.conf
from nova import exception as nova_exception
import nova.privsep.qemu
from oslo_concurrency import processutils
from oslo_utils import uuidutils

from nova_snapdriver import child
from nova_snapdriver import exception
from nova_snapdriver import imagebackend

CONF = nova.conf.CONF

_MAX_CHAIN = 32

# In the image cache: a hash of the image's ID, and in older ones its size.
_CACHED = re.compile(r'[0-9a-f]{40}(_\d+)?')


def images(disk: imagebackend.RootDisk,
           base_format: str | None = None) -> tuple[imagebackend.Source, ...]:
    """Return the images of a disk, top first.

    :param base_format: Glance's format of the image that the server was
        created from, if it is known
    :raises DiskUnusable: the format of a backing file is unknown, or it is
        where Nova keeps none
    """
    if disk.backing:
        return (disk.source, *disk.backing)
    found = [disk.source]
    while (below := _below(found[-1], base_format)) is not None:
        found.append(below)
        if len(found) > _MAX_CHAIN:
            raise exception.DiskUnusable(
                reason='the backing chain of %s has more than %d images' %
                       (disk.source.path, _MAX_CHAIN))
    return tuple(found)


def _below(image: imagebackend.Source,
           base_format: str | None) -> imagebackend.Source | None:
    if image.format != 'qcow2' or image.path is None:
        return None
    info = _info(image.path)
    if info.get('format-specific', {}).get('data', {}).get('data-file'):
        raise exception.DiskUnusable(
            reason='%s keeps its data in another file, which Nova never does' %
                   image.path)
    path = info.get('full-backing-filename', info.get('backing-filename'))
    if path is None:
        return None
    if _in_cache(image.path):
        # Users make cached images; Nova lets none in that has a backing file.
        raise exception.DiskUnusable(
            reason='the cached image %s names a backing file, which is never '
                   'followed' % image.path)
    if not (_in_cache(path) or _beside(path, image.path)):
        # Nova does not make such disks, and the path may be any file.
        raise exception.DiskUnusable(
            reason='the backing file %s is neither in the image cache nor '
                   'beside the disk' % path)
    return imagebackend.Source('file', _format(info, path, base_format), path)


def _format(info: dict[str, Any], path: str, base_format: str | None) -> str:
    # Names such as "json:" or "nbd:" can open anything: Nova writes paths.
    if not os.path.isabs(path) or not os.path.isfile(path):
        raise exception.DiskUnusable(
            reason='the backing file %s is not a file on this host' % path)
    recorded = info.get('backing-filename-format')
    if recorded in ('raw', 'qcow2'):
        return str(recorded)
    # The cache has an image as it was uploaded, or made raw. Whether it was
    # made raw depends on an option as it was then.
    if recorded is None and base_format == 'raw' and _in_cache(path):
        return 'raw'
    raise exception.DiskUnusable(
        reason='the format of the backing file %(path)s is not known '
               '(%(recorded)s), and nothing is probed. Record it while the '
               'server is stopped: qemu-img rebase -u -f qcow2 -F FORMAT -b '
               '%(path)s DISK' % {'path': path, 'recorded': recorded})


def _beside(path: str, disk: str) -> bool:
    return (os.path.dirname(os.path.realpath(path)) ==
            os.path.dirname(os.path.realpath(disk)))


def _in_cache(path: str) -> bool:
    """Whether the image cache has it, under its present name or another.

    A server keeps the cache directory that it was made with when [image_cache]
    subdirectory_name changes.
    """
    folder, name = os.path.split(os.path.realpath(path))
    instances = os.path.realpath(CONF.instances_path)
    if folder == os.path.realpath(os.path.join(
            instances, CONF.image_cache.subdirectory_name)):
        return True
    inside = os.path.relpath(folder, instances).split(os.sep)
    return (_CACHED.fullmatch(name) is not None and
            inside[0] not in (os.curdir, os.pardir) and
            # Directories of servers: their QEMUs write in them.
            not any(uuidutils.is_uuid_like(part) for part in inside))


def _info(path: str) -> dict[str, Any]:
    try:
        info: dict[str, Any] = json.loads(_read_header(path))
    except (processutils.ProcessExecutionError, nova_exception.NovaException,
            OSError, ValueError) as ex:
        raise exception.DiskUnusable(
            reason='cannot read the header of %s: %s' % (path, ex)) from ex
    return info


def _read_header(path: str) -> str:
    if os.access(path, os.R_OK, effective_ids=True):
        return child.output('qemu-img', 'info', '-f', 'qcow2',
                            '--output=json', path)
    # As root, by Nova's own function, which sets resource limits.
    return str(nova.privsep.qemu.privileged_qemu_img_info(path, 'qcow2'))

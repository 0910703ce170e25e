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

"""Copy the disk of a suspended guest, so that it can be resumed.

By a clone where the file system can share blocks (XFS, btrfs), which takes no
time and no space; else into a file with all of the disk's data.
"""

from collections.abc import Iterator
import contextlib
import dataclasses
import fcntl
import os
import struct
from urllib import parse

from oslo_concurrency import processutils
from oslo_log import log as logging
from oslo_utils import units

from nova_snapdriver.capture import request as capture_request
from nova_snapdriver.capture import server
from nova_snapdriver.capture import space
from nova_snapdriver.capture import workspace
from nova_snapdriver import child
from nova_snapdriver import exception
from nova_snapdriver import imagebackend
from nova_snapdriver import threadpool

LOG = logging.getLogger(__name__)

# ioctl_ficlonerange(2), and its struct file_clone_range: the source's file
# descriptor and offset, the length (0 means all), the target's offset.
_FICLONERANGE = 0x4020940d
_CLONE_RANGE = struct.Struct('=qQQQ')

# For qemu-img convert: no limit of CPU time, as that grows with the disk, and
# a large address space, as its threads' stacks reserve a lot.
_LIMITS = processutils.ProcessLimits(address_space=4 * units.Gi,
                                     core_file_size=0, number_files=256)

_Chain = tuple[imagebackend.Source, ...]


def copied(request: capture_request.Request, images: _Chain
           ) -> contextlib.AbstractContextManager[_Chain]:
    """Choose how to copy, while the guest still runs.

    The copy is made in the workspace, which must exist, and is removed with
    it.

    :param images: the images of the disk, top first
    :returns: a context manager that makes the copy when it is entered, which
        must be while the guest is suspended, and gives the copy's images
    :raises ScratchExhausted: there is no space for it
    """
    if _can_clone(images[0], request.place):
        space.check(request.place, request.limits)
        return _cloned(images, request)
    space.require(request.place, request.limits, _data(images, request))
    return _spooled(images, request)


def _can_clone(image: imagebackend.Source,
               place: workspace.Workspace) -> bool:
    """Whether the file system can share blocks; tried with the first one.

    This also flushes dirty pages of the image while the guest still runs: a
    clone waits for them.
    """
    if image.type != 'file' or image.path is None:
        return False
    try:
        block = os.stat(image.path).st_blksize
        try:
            threadpool.call(_share, image.path, place.copy, block)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(place.copy)
    except OSError as ex:
        LOG.info('The disk is copied and not cloned, as its file system does '
                 'not share blocks with %s: %s', place.path, ex)
        return False
    return True


@contextlib.contextmanager
def _cloned(images: _Chain,
            request: capture_request.Request) -> Iterator[_Chain]:
    top, *below = images
    assert top.path is not None
    try:
        threadpool.call(_share, top.path, request.place.copy, 0)
    except OSError as ex:
        raise exception.CaptureFailed(
            reason='%s cannot be cloned: %s' % (top.path, ex)) from ex
    yield (dataclasses.replace(top, path=request.place.copy), *below)


def _share(path: str, copy: str, length: int) -> None:
    """Clone the first ``length`` bytes of a file, or all of it with 0."""
    with open(path, 'rb') as source, open(copy, 'wb') as target:
        os.fchmod(target.fileno(), 0o600)
        os.fdatasync(source.fileno())
        fcntl.ioctl(target, _FICLONERANGE,
                    _CLONE_RANGE.pack(source.fileno(), 0, length, 0))


@contextlib.contextmanager
def _spooled(images: _Chain,
             request: capture_request.Request) -> Iterator[_Chain]:
    """Copy all data of a disk into one file."""
    place, name = request.place, request.disk.target
    with server.serve(place, images, name) as exported:
        # The guest waits for it, and qemu-img is the fastest way.
        url = 'nbd+unix:///%s?socket=%s' % (
            parse.quote(exported.name), parse.quote(exported.socket))
        try:
            child.output('qemu-img', 'convert', '-W', '-f', 'raw', '-O',
                         'qcow2', url, place.copy, limits=_LIMITS)
            os.chmod(place.copy, 0o600)
        except (processutils.ProcessExecutionError, OSError) as ex:
            raise exception.CaptureFailed(
                reason='the disk cannot be copied to %s: %s' %
                       (place.copy, ex)) from ex
    yield (imagebackend.Source('file', 'qcow2', place.copy),)


def _data(images: _Chain, request: capture_request.Request) -> int:
    """The maximum size of a copy of a disk, in bytes."""
    return stored(images,
                  request.guest.disk_size(request.disk.target).capacity)


def stored(images: _Chain, capacity: int) -> int:
    """Return how much data a disk has at the most, in bytes.

    :param images: of its backing chain
    :param capacity: what the guest sees, in bytes
    """
    total = 0
    for image in images:
        if image.type != 'file' or image.path is None:
            return capacity
        total += os.stat(image.path).st_blocks * workspace.BLOCK_BYTES
    return min(capacity, total)

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

"""Run qemu-nbd as root, by Nova's own privileged process.

It uses Nova's privsep context, so that operators need no other sudoers rule or
``[nova_sys_admin] helper_command``. oslo.privsep allows that for every module
whose name begins with the context's prefix, "nova".
"""

from collections.abc import Sequence
import os
import stat

import nova.conf
import nova.privsep

from nova_snapdriver.capture import blockdev
from nova_snapdriver.capture import qemunbd
from nova_snapdriver.capture import workspace
from nova_snapdriver import conf
from nova_snapdriver import exception
from nova_snapdriver import imagebackend

CONF = nova.conf.CONF

conf.register_opts(CONF)

# Type, format and path of an image: values that oslo.privsep can transfer.
Image = tuple[str, str, str | None]

# In the privileged process: the running servers by process ID.
_servers: dict[int, qemunbd.Server] = {}


@nova.privsep.sys_admin_pctxt.entrypoint  # type: ignore[untyped-decorator]
def start_server(socket: str, images: Sequence[Image], name: str) -> int:
    """Start qemu-nbd as root, for a disk of an instance and nothing else.

    The socket belongs to root; chown it to the user that is to connect.

    :param socket: the socket of a workspace
    :param images: the images of the disk, top first
    :returns: process ID
    :raises CaptureFailed: it could not be started
    :raises DiskUnusable: the disk or the socket is not where Nova has them
    """
    chain = [imagebackend.Source(*image) for image in images]
    _require_workspace(socket)
    for source in chain:
        _require_disk(source)
    server = qemunbd.Server(socket, blockdev.description(chain), name)
    _servers[server.pid] = server
    return server.pid


@nova.privsep.sys_admin_pctxt.entrypoint  # type: ignore[untyped-decorator]
def end_server(pid: int) -> None:
    """End a qemu-nbd that :func:`start_server` started. Idempotent."""
    server = _servers.pop(pid, None)
    if server is not None:
        server.end()


@nova.privsep.sys_admin_pctxt.entrypoint  # type: ignore[untyped-decorator]
def give(path: str, uid: int, to: int) -> None:
    """Give a file of a workspace to another user.

    The directory may be QEMU's, and a QEMU that was taken over can put
    anything there: so a link is not followed, and the file has to be one that
    the user has made, under no other name.

    :param path: of a socket or a regular file
    :param uid: the user who owns it
    :param to: the user who is to own it
    :raises DiskUnusable: it is something else
    """
    _require_workspace_file(path)
    _give(path, uid, to)


def _give(path: str, uid: int, to: int) -> None:
    flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
    directory = os.open(os.path.dirname(path), flags | os.O_DIRECTORY)
    try:
        file = os.open(os.path.basename(path), flags, dir_fd=directory)
    finally:
        os.close(directory)
    try:
        _require_made_by(os.fstat(file), uid, path)
        # The link in /proc leads to the file that was opened, whatever has
        # its name by now; fchown(2) refuses descriptors of O_PATH.
        os.chown('/proc/self/fd/%d' % file, to, -1)
    finally:
        os.close(file)


def _require_made_by(found: os.stat_result, uid: int, path: str) -> None:
    kind = stat.S_IFMT(found.st_mode)
    if (kind not in (stat.S_IFSOCK, stat.S_IFREG) or found.st_uid != uid or
            found.st_nlink != 1):
        raise exception.DiskUnusable(
            reason='%s is no file of user %d: it has been exchanged' %
                   (path, uid))


def _require_workspace_file(path: str) -> None:
    place = workspace.Workspace(os.path.dirname(path))
    if not workspace.is_one(place.path) or path not in (place.socket,
                                                        place.overlay):
        raise exception.DiskUnusable(
            reason='%s is no file of a snapshot' % path)


def _require_workspace(socket: str) -> None:
    place = workspace.Workspace(os.path.dirname(socket))
    if not workspace.is_one(place.path) or socket != place.socket:
        raise exception.DiskUnusable(
            reason='%s is no socket of a snapshot' % socket)


def _require_disk(source: imagebackend.Source) -> None:
    """Check that Nova keeps disks there, as root may read anything."""
    path = os.path.realpath(source.path or '')
    if source.type == 'file' and not any(
            path.startswith(os.path.join(os.path.realpath(parent), ''))
            for parent in (CONF.instances_path,
                           CONF.snapdriver.scratch_directory)):
        raise exception.DiskUnusable(
            reason='%s is not read as root, as it is neither in [DEFAULT] '
                   'instances_path nor in [snapdriver] scratch_directory' %
                   path)
    if source.type == 'block' and not _is_block_device(path):
        raise exception.DiskUnusable(
            reason='%s is not read as root, as it is no block device' % path)


def _is_block_device(path: str) -> bool:
    return os.path.exists(path) and stat.S_ISBLK(os.stat(path).st_mode)

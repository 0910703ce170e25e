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

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

"""Export a disk that no QEMU writes, read-only over NBD, by qemu-nbd.

QEMU's image lock keeps other QEMUs from opening the disk for writing
meanwhile, and fails the export if one already has. (Except for block devices:
libvirt creates device nodes for each QEMU, and locks belong to a node. There
the state of the domain must be right.) QEMU does not lock images in Ceph, so a
disk there is exported from an RBD snapshot.
"""

from collections.abc import Iterator
from collections.abc import Sequence
import contextlib
import os

from oslo_log import log as logging

from nova_snapdriver.capture import blockdev
from nova_snapdriver.capture import export
from nova_snapdriver.capture import privsep
from nova_snapdriver.capture import qemunbd
from nova_snapdriver.capture import workspace
from nova_snapdriver import faultpoint
from nova_snapdriver import imagebackend

LOG = logging.getLogger(__name__)


def may_read(chain: Sequence[imagebackend.Source]) -> bool:
    """Whether nova-compute itself may read every image of a disk."""
    return all(source.path is None or
               os.access(source.path, os.R_OK, effective_ids=True)
               for source in chain)


@contextlib.contextmanager
def serve(place: workspace.Workspace, chain: Sequence[imagebackend.Source],
          name: str) -> Iterator[export.Export]:
    """Export a disk on the socket of a workspace until the block ends.

    As root, if nova-compute may not read the disk.

    :param place: a workspace, which must exist
    :param chain: the images of the disk, top first
    :param name: name of the export
    :raises DiskUnusable: an image is of an unknown type or format
    :raises CaptureFailed: qemu-nbd failed, or another QEMU has the disk open
        for writing
    """
    run = _served if may_read(chain) else _served_by_root
    with run(place.socket, chain, name):
        faultpoint.reach('server.started')
        yield export.Export(place.socket, name)
    faultpoint.reach('server.ended')


@contextlib.contextmanager
def _served(socket: str, chain: Sequence[imagebackend.Source],
            name: str) -> Iterator[None]:
    server = qemunbd.Server(socket, blockdev.description(chain), name)
    try:
        yield
    finally:
        server.end()


@contextlib.contextmanager
def _served_by_root(socket: str, chain: Sequence[imagebackend.Source],
                    name: str) -> Iterator[None]:
    pid = privsep.start_server(
        socket, [(one.type, one.format, one.path) for one in chain], name)
    try:
        privsep.give(socket, 0, os.geteuid())
        yield
    finally:
        _end(pid)


def _end(pid: int) -> None:
    try:
        privsep.end_server(pid)
    except Exception as ex:
        # An exception of the caller is more important. If the privileged
        # process does not answer, it has ended, and its qemu-nbd with it.
        LOG.error('Cannot end qemu-nbd, process %(pid)d: %(error)s',
                  {'pid': pid, 'error': ex})

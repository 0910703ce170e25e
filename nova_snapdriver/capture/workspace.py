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

"""The private directory of one snapshot, below the scratch directory."""

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import dataclasses
import os
import re
import secrets
import shutil
import stat

import nova.conf
import nova.privsep.path
from oslo_log import log as logging
from oslo_utils import fileutils

from nova_snapdriver import exception
from nova_snapdriver import faultpoint

LOG = logging.getLogger(__name__)
CONF = nova.conf.CONF

# sun_path of a UNIX socket's address has 108 bytes, with a zero at the end.
MAX_SOCKET_PATH = 107

_PREFIX = 'snapdriver-'
_SOCKET = 'nbd'
_SCRATCH = 'scratch'
_OVERLAY = 'overlay'
_COPY = 'copy'

BLOCK_BYTES = 512       # the unit of st_blocks on every file system

# Short, because the path of the socket is limited.
_NAME = re.compile(_PREFIX + '[0-9a-f]{8}')


@dataclasses.dataclass(frozen=True)
class Workspace:
    """The directory of one snapshot: a socket, and QEMU's files."""

    path: str

    @property
    def socket(self) -> str:
        return os.path.join(self.path, _SOCKET)

    @property
    def scratch(self) -> str:
        return os.path.join(self.path, _SCRATCH)

    @property
    def overlay(self) -> str:
        return os.path.join(self.path, _OVERLAY)

    @property
    def copy(self) -> str:
        return os.path.join(self.path, _COPY)


def locate(parent: str) -> Workspace:
    """Choose a new workspace in the scratch directory; creates nothing.

    Symbolic links on the path are resolved here, and never again: a link that
    is changed later must not redirect files that are created, or given to
    another user.
    """
    return Workspace(os.path.join(os.path.realpath(parent),
                                  _PREFIX + secrets.token_hex(4)))


def is_one(path: str) -> bool:
    """Whether a path is one that :func:`locate` can have chosen."""
    return (os.path.isabs(path) and os.path.normpath(path) == path and
            _NAME.fullmatch(os.path.basename(path)) is not None)


def check(place: Workspace) -> None:
    """Check that a workspace can be created; creates the scratch directory.

    :raises DirectoryUnusable: it cannot
    """
    length = len(os.fsencode(place.socket))
    if length > MAX_SOCKET_PATH:
        raise exception.DirectoryUnusable(
            reason='the path of a socket in it, %s, has %d bytes, and the '
                   'maximum is %d' % (place.socket, length, MAX_SOCKET_PATH))
    parent = os.path.dirname(place.path)
    if not os.path.isdir(parent):
        _make(parent)
    _require_trusted(parent)
    if not os.access(parent, os.W_OK | os.X_OK, effective_ids=True):
        raise exception.DirectoryUnusable(reason='%s is not writable' % parent)


def _trusted() -> set[int]:
    """User IDs: root, nova-compute's, and the owner of instances_path."""
    users = {0, os.geteuid()}
    with contextlib.suppress(FileNotFoundError):
        users.add(os.stat(CONF.instances_path).st_uid)
    return users


def _require_trusted(parent: str) -> None:
    """Check that no other user can replace entries of a directory.

    A workspace is chowned to QEMU's user; if another user replaced it by a
    link, any file of the host would be.
    """
    info = os.stat(parent)
    if info.st_uid not in _trusted():
        raise exception.DirectoryUnusable(
            reason='%s belongs to user %d, who is neither root nor the one '
                   'of nova-compute' % (parent, info.st_uid))
    if info.st_mode & stat.S_IWOTH and not info.st_mode & stat.S_ISVTX:
        raise exception.DirectoryUnusable(
            reason='%s is writable by everybody' % parent)


def _make(parent: str) -> None:
    try:
        fileutils.ensure_tree(parent)
        # QEMU's user has to pass through, despite the umask.
        os.chmod(parent, 0o711)
    except OSError as ex:
        raise exception.DirectoryUnusable(
            reason='cannot make %s: %s' % (parent, ex)) from ex


def try_out(place: Workspace, qemu_uid: int | None) -> None:
    """Make a workspace as a snapshot does, and remove it again.

    An NFS server that trusts no root, or a quota, shows only when it is tried.

    :raises DirectoryUnusable: it cannot be made
    """
    with _made(place, qemu_uid, lambda: None):
        pass


@contextlib.contextmanager
def private(place: Workspace, qemu_uid: int | None,
            on_leftover: Callable[[], None] = lambda: None
            ) -> Iterator[None]:
    """Create the workspace of a snapshot, and remove it at the end.

    Only QEMU's user, who creates the socket and uses the scratch file, and
    nova-compute's own group can enter it, despite the umask.

    :param qemu_uid: the user that QEMU runs as; ``None`` means nova-compute's
    :param on_leftover: called when it could not be removed
    :raises DirectoryUnusable: it cannot be created
    """
    try:
        with _made(place, qemu_uid, on_leftover):
            faultpoint.reach('workspace.made')
            try:
                yield
            finally:
                faultpoint.reach('workspace.removing')
    finally:
        faultpoint.reach('workspace.removed')


@contextlib.contextmanager
def _made(place: Workspace, qemu_uid: int | None,
          on_leftover: Callable[[], None]) -> Iterator[None]:
    check(place)
    try:
        os.mkdir(place.path, mode=0o700)
    except OSError as ex:
        raise exception.DirectoryUnusable(
            reason='cannot make %s: %s' % (place.path, ex)) from ex
    try:
        _give(place.path, qemu_uid)
        yield
    finally:
        _remove(place.path, on_leftover)


def _give(path: str, uid: int | None) -> None:
    if uid is None or uid == os.geteuid():
        return
    try:
        # Group first: it may have that of a parent with the set-group-ID bit.
        os.chown(path, -1, os.getegid())
        os.chmod(path, 0o770)
        nova.privsep.path.chown(path, uid=uid)
    except OSError as ex:
        raise exception.DirectoryUnusable(
            reason='cannot give %s to the user of QEMU, %d (%s); NFS needs '
                   'no_root_squash for that' % (path, uid, ex)) from ex


def _remove(path: str, on_leftover: Callable[[], None]) -> None:
    try:
        shutil.rmtree(path)
    except OSError as ex:
        on_leftover()
        LOG.error('Cannot remove %(path)s, this is tried again: %(error)s',
                  {'path': path, 'error': ex})


def unreachable(path: str, uid: int, gid: int) -> str | None:
    """The first directory on a path that a user may not enter.

    By mode bits alone, without ACLs: it explains a failure, and does not
    predict one.
    """
    at = os.sep
    for part in os.path.abspath(path).split(os.sep):
        at = os.path.join(at, part)
        info = os.stat(at)
        if uid == 0:
            continue
        shift = 6 if info.st_uid == uid else 3 if info.st_gid == gid else 0
        if not info.st_mode >> shift & 1:
            return at
    return None

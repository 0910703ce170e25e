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

"""Send an image to a file on this host.

The file has its name once it is whole and verified. Until then it is another
one in the same directory, private to root, whose name the journal has.
"""

from collections.abc import Iterator
import contextlib
import errno
import hashlib
import os
import secrets
from typing import Any
import uuid

from oslo_utils import units

from nova_snapdriver import exception
from nova_snapdriver.transfer import body as image_body
from nova_snapdriver.transfer import destination
from nova_snapdriver.transfer import verify as snap_verify

_PREFIX = '.snapdriver-'
_SUFFIX = '.part'
# What stays a hole in a raw file. Smaller than a file system's block gains
# nothing, and larger ones miss zeros.
_HOLE_BYTES = 4 * units.Ki
_ZEROS = bytes(_HOLE_BYTES)
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)


def is_partial(path: str) -> bool:
    """Whether a path is one that :class:`File` can have written to."""
    name = os.path.basename(path)
    return (os.path.isabs(path) and name.startswith(_PREFIX) and
            name.endswith(_SUFFIX))


class File(destination.Destination):
    """An image to be in a file.

    :param path: of the file; nothing is followed but links in its directory
    :param data: how much of a raw image is data at the most, in bytes
    :param replace: replace a file that is there
    :raises UploadFailed: the directory is not there, or the file is
    """

    def __init__(self, path: str, data: int, replace: bool = False) -> None:
        parent, self._name = os.path.split(path)
        self._directory = os.path.realpath(parent or os.curdir)
        self._data = data
        self._replace = replace
        self._cancelled = False
        self._open = contextlib.ExitStack()
        self._partial = _PREFIX + secrets.token_hex(8) + _SUFFIX
        self._file = -1
        self.image_id = str(uuid.uuid4())
        self.id = os.path.join(self._directory, self._name)
        with _explained('cannot write %s' % self.id):
            self._parent = os.open(self._directory,
                                   os.O_RDONLY | os.O_DIRECTORY)
            self._open.callback(os.close, self._parent)
        self._refuse_existing()

    @property
    def place(self) -> dict[str, str]:
        """What a result says of it."""
        return {'path': self.id}

    @property
    def target(self) -> str:
        """The path of the file while it is not verified."""
        return os.path.join(self._directory, self._partial)

    def _refuse_existing(self) -> None:
        if not os.path.lexists(self.id):
            return
        if not self._replace:
            raise exception.UploadFailed(
                reason='%s is there already; --force replaces it' % self.id)
        if os.path.isdir(self.id):
            raise exception.UploadFailed(
                reason='%s is a directory' % self.id)

    def make(self) -> None:
        """Create the partial file, which only root may read.

        :raises UploadFailed: it cannot be made
        """
        with _explained('cannot write to %s' % self._directory):
            self._file = os.open(
                self._partial, os.O_RDWR | os.O_CREAT | os.O_EXCL |
                os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=self._parent)
            self._open.callback(os.close, self._file)

    def describe(self, metadata: dict[str, Any]) -> None:
        """A file has no metadata."""

    def upload(self, body: image_body.ImageBody) -> None:
        """Write the image, again from its first byte if it outgrows.

        :raises UploadFailed: it cannot be written
        :raises StreamFailed: the disk cannot be read
        """
        while True:
            body.prepare()
            self._require_room(body)
            try:
                with _explained('cannot write %s' % self.id):
                    return self._write(body)
            except exception.Outgrown:
                continue                # body says when it is enough

    def _require_room(self, body: image_body.ImageBody) -> None:
        sparse = body.image_format == 'raw'
        needed = min(body.length, self._data) if sparse else body.length
        found = os.fstatvfs(self._parent)
        free = found.f_bavail * found.f_frsize
        if needed > free:
            raise exception.UploadFailed(
                reason='%s has %d MiB left, and the image may take %d MiB' %
                       (self._directory, free // units.Mi,
                        needed // units.Mi + 1))

    def _write(self, body: image_body.ImageBody) -> None:
        os.ftruncate(self._file, 0)
        at, sparse = 0, body.image_format == 'raw'
        for chunk in body:
            self._check()
            if sparse:
                for start, data in _data_in(chunk):
                    _write_all(self._file, data, at + start)
            else:
                _write_all(self._file, chunk, at)
            at += len(chunk)
        os.ftruncate(self._file, at)
        os.fsync(self._file)

    def verify(self, sent: snap_verify.Sent, hashes: bool) -> None:
        """Read the file back, from its disk, and compare.

        :raises VerifyFailed: it is not what was sent
        """
        with _explained('cannot read %s back' % self.target):
            size = os.fstat(self._file).st_size
            if size != sent.length:
                raise exception.VerifyFailed(
                    reason='it has %d bytes, and %d were written' %
                           (size, sent.length))
            if hashes and self._hash(str(sent.algorithm)) != sent.digest:
                raise exception.VerifyFailed(
                    reason='what was read back has another hash')

    def _hash(self, algorithm: str) -> str:
        # What is written is dropped from the page cache: the disk is read.
        os.posix_fadvise(self._file, 0, 0, os.POSIX_FADV_DONTNEED)
        known, at = hashlib.new(algorithm), 0
        while data := os.pread(self._file, units.Mi, at):
            self._check()
            known.update(data)
            at += len(data)
        return known.hexdigest()

    def publish(self) -> None:
        """Give the file its name. It replaces another one only if it may.

        :raises UploadFailed: there is another one by now
        """
        self._check()
        with _explained('cannot give %s its name' % self.id):
            self._rename()
            os.fsync(self._parent)

    def _rename(self) -> None:
        where = {'src_dir_fd': self._parent, 'dst_dir_fd': self._parent}
        if self._replace:
            os.rename(self._partial, self._name, **where)
            return
        try:
            # A rename would replace what is there.
            os.link(self._partial, self._name, **where,
                    follow_symlinks=False)
        except OSError as ex:
            if ex.errno not in _NO_LINKS:
                raise
            self._refuse_existing()
            os.rename(self._partial, self._name, **where)
        else:
            os.unlink(self._partial, dir_fd=self._parent)

    def cancel(self) -> None:
        """Make upload() and verify() fail at their next step."""
        self._cancelled = True

    def _check(self) -> None:
        if self._cancelled:
            raise exception.Cancelled(reason='it was cancelled')

    def close(self) -> None:
        """The file stays open until the end of :meth:`held`."""

    def discard(self) -> None:
        """Remove the partial file. Idempotent.

        :raises UploadFailed: it cannot be removed
        """
        with (_explained('cannot remove %s' % self.target),
              contextlib.suppress(FileNotFoundError)):
            os.unlink(self._partial, dir_fd=self._parent)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Close the file and its directory at the end of the block."""
        with self._open:
            yield


def _data_in(chunk: memoryview) -> Iterator[tuple[int, memoryview]]:
    """The parts of a chunk that are not zeros: their starts, and data."""
    start = None
    for at in range(0, len(chunk), _HOLE_BYTES):
        block = chunk[at:at + _HOLE_BYTES]
        if bytes(block) != _ZEROS[:len(block)]:
            start = at if start is None else start
        elif start is not None:
            yield start, chunk[start:at]
            start = None
    if start is not None:
        yield start, chunk[start:]


def _write_all(file: int, data: memoryview, at: int) -> None:
    while data:
        count = os.pwrite(file, data, at)
        data, at = data[count:], at + count


@contextlib.contextmanager
def _explained(what: str) -> Iterator[None]:
    """:raises UploadFailed: the system refuses something"""
    try:
        yield
    except OSError as ex:
        raise exception.UploadFailed(
            reason='%s: %s' % (what, ex.strerror or ex)) from ex

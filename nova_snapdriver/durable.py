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

"""Small private files that are whole after a crash, or not there."""

import fcntl
import os
import pathlib
import time

#: What a file's name ends with until all of it is written.
NEW = '.new'
#: More is not read.
MAX_BYTES = 1 << 16
#: What reading JSON from a file raises that holds something else.
BROKEN = (OSError, ValueError, TypeError, LookupError, AttributeError,
          OverflowError, RecursionError)

#: Who only looks at a lock holds it for a millisecond.
LOOK_SECONDS = 0.05


def read(path: pathlib.Path) -> str:
    """The beginning of a file, and no waiting for a pipe."""
    with open(path, errors='replace', opener=_unblocked) as file:
        return file.read(MAX_BYTES)


def replace(path: pathlib.Path, text: str, sync: bool = True) -> None:
    """Write a file, or write it anew.

    :param sync: return once it is on disk
    """
    # Of this file alone: two threads may write two of them.
    new = path.with_name(path.name + NEW)
    with open(new, 'w', opener=_private) as file:
        file.write(text)
        file.flush()
        if sync:
            os.fsync(file.fileno())
    new.replace(path)
    if sync:
        sync_directory(path.parent)


def remove(path: pathlib.Path) -> None:
    """Remove a file, if it is there, and return once it is gone on disk."""
    path.unlink(missing_ok=True)
    sync_directory(path.parent)


def create_locked(path: pathlib.Path, text: str) -> int:
    """Write a new file that is locked (flock) before it has its name.

    :returns: its descriptor, which holds the lock
    """
    new = path.with_suffix(NEW)
    descriptor = os.open(new, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
    try:
        # Before it has its name: nobody finds it abandoned.
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        os.write(descriptor, text.encode())
        os.fsync(descriptor)
        new.rename(path)
        sync_directory(path.parent)
    except BaseException:
        os.close(descriptor)
        new.unlink(missing_ok=True)
        raise
    return descriptor


def open_to_lock(path: pathlib.Path) -> int:
    """Open a file to write, as a lock on NFS needs it."""
    return os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)


def try_lock(descriptor: int, patience: float = 0) -> bool:
    """Lock a file, unless somebody else has.

    :param patience: seconds after which to try it again
    :raises ValueError: it cannot be locked, with what to do about it
    """
    try:
        if _lock(descriptor):
            return True
        time.sleep(patience)
        return patience > 0 and _lock(descriptor)
    except OSError as ex:
        raise ValueError(
            'it cannot be locked (%s), so nobody can tell whether its '
            'snapshot still runs: [snapdriver] journal_directory has to be on '
            'a local file system' % ex) from ex


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def sync_directory(path: pathlib.Path) -> None:
    """Make durable which files a directory has."""
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


def _unblocked(path: str, flags: int) -> int:
    """Open a file, and do not wait for a pipe or follow a link."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)

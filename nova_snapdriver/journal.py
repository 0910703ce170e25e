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

"""What snapshots are under way, on disk, for whoever comes after a crash.

One file a snapshot, written before its first effect and removed after its
last one. The process that takes the snapshot holds a lock (flock) on the file;
the kernel lets go of it when that process dies, however it does. So a file
without a lock is a snapshot that was abandoned, whichever container or pid
namespace one looks from.
"""

from collections.abc import Iterator
import contextlib
import dataclasses
import datetime
import fcntl
import json
import os
import pathlib
import time
import types
from typing import Self
import uuid

from oslo_log import log as logging

from nova_snapdriver import exception
from nova_snapdriver import faultpoint

LOG = logging.getLogger(__name__)

_SUFFIX = '.json'
_PROGRESS = '.progress'
_SUSPENDED = '.suspended'
_WHOLE = '.whole'
_NEW = '.new'
_VERSION = 1

# To write an entry takes milliseconds.
_WRITE_SECONDS = 3


@dataclasses.dataclass(frozen=True)
class Entry:
    """One snapshot.

    :param instance: its UUID
    :param image: the image's UUID
    :param path: of :class:`nova_snapdriver.plan.Path`
    :param workspace: the private directory, which may not be there (yet)
    :param socket: of the export; it tells our backup job from others
    :param thaw: the guest may be frozen
    :param begun_at: ISO 8601, UTC
    :param snapshot: the URL of an RBD snapshot of the disk
    :param clone: of the direct path, the URL of the copy in Glance's pool
    """

    instance: str
    image: str
    path: str
    workspace: str
    socket: str
    thaw: bool
    begun_at: str
    snapshot: str = ''
    clone: str = ''

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            expected = bool if name == 'thaw' else str
            if not isinstance(value, expected):
                raise ValueError('%s is not a %s' % (name, expected.__name__))
        uuid.UUID(self.instance)
        uuid.UUID(self.image)
        if datetime.datetime.fromisoformat(self.begun_at).tzinfo is None:
            raise ValueError('begun_at has no time zone')

    @property
    def age(self) -> datetime.timedelta:
        """How long ago it began."""
        begun = datetime.datetime.fromisoformat(self.begun_at)
        return datetime.datetime.now(datetime.UTC) - begun


@dataclasses.dataclass(frozen=True)
class Whole:
    """All of an image, as it was sent.

    :param length: bytes
    :param algorithm: of the hash, as hashlib names it; none without one
    :param digest: in hex; none without one
    """

    length: int
    algorithm: str | None
    digest: str | None


def now() -> str:
    """The present, as entries have it."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds')


class Record:
    """An entry on disk, held by this process: a context manager.

    Leaving it removes the entry, unless :meth:`keep` was called.
    """

    def __init__(self, path: pathlib.Path, descriptor: int,
                 entry: Entry) -> None:
        self._path = path
        self._descriptor = descriptor
        self._keep = False
        self.entry = entry

    def __enter__(self) -> Self:
        return self

    def __exit__(self, exc_type: type[BaseException] | None,
                 exc: BaseException | None,
                 traceback: types.TracebackType | None) -> None:
        if not self._keep:
            faultpoint.reach('journal.removing')
            for suffix in (_NEW, _PROGRESS, _SUSPENDED, _WHOLE, _SUFFIX):
                self._beside(suffix).unlink(missing_ok=True)
            faultpoint.reach('journal.removed')
        self.close()

    def close(self) -> None:
        """Let go of the entry, and leave it where it is."""
        os.close(self._descriptor)

    def keep(self) -> None:
        """Leave the entry for the next recovery: something is not done."""
        self._keep = True

    @property
    def kept(self) -> bool:
        """Whether the entry stays for a recovery."""
        return self._keep

    def progress(self, done: int, length: int) -> None:
        """Note how many of the image's bytes were sent. Never raises."""
        with contextlib.suppress(OSError):
            self._replace(_PROGRESS, json.dumps([done, length]))

    def sent(self) -> tuple[int, int] | None:
        """The bytes sent and the length of the image; none if not known."""
        try:
            done, length = json.loads(self._beside(_PROGRESS).read_text())
            return int(done), int(length)
        except (OSError, ValueError, TypeError, OverflowError,
                RecursionError):
            return None

    def note_whole(self, whole: Whole) -> None:
        """Note, durably, what Glance has to hold once it has all of it.

        :raises JournalUnusable: it cannot be written
        """
        try:
            self._replace(_WHOLE, json.dumps(dataclasses.asdict(whole)),
                          durable=True)
            _sync(self._path.parent)
        except OSError as ex:
            raise exception.JournalUnusable(reason=ex) from ex

    @property
    def whole(self) -> Whole | None:
        """What was sent; none if that was not all, or is not known."""
        try:
            return Whole(**json.loads(self._beside(_WHOLE).read_text()))
        except (OSError, ValueError, TypeError, RecursionError):
            return None

    def note_suspended(self, suspended: bool) -> None:
        """Note, durably, whether the guest is down for this snapshot.

        :raises JournalUnusable: it cannot be written
        """
        mark = self._beside(_SUSPENDED)
        try:
            if suspended:
                mark.touch(mode=0o600)
            else:
                mark.unlink(missing_ok=True)
            _sync(self._path.parent)
        except OSError as ex:
            raise exception.JournalUnusable(reason=ex) from ex

    @property
    def suspended(self) -> bool:
        """Whether the guest may be down for this snapshot."""
        return self._beside(_SUSPENDED).exists()

    def _replace(self, suffix: str, text: str, durable: bool = False) -> None:
        new = self._beside(_NEW)
        with new.open('w') as file:
            file.write(text)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        new.replace(self._beside(suffix))

    def _beside(self, suffix: str) -> pathlib.Path:
        return self._path.with_suffix(suffix)


class Journal:
    """The entries of one host.

    :param directory: made at the first entry, for this user alone
    """

    def __init__(self, directory: str) -> None:
        self._directory = pathlib.Path(directory)

    def begin(self, entry: Entry) -> Record:
        """Write an entry, durably.

        :raises JournalUnusable: it cannot be written
        """
        path = self._directory / (str(uuid.uuid4()) + _SUFFIX)
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = self._write(path, entry)
        except OSError as ex:
            raise exception.JournalUnusable(reason=ex) from ex
        faultpoint.reach('journal.written')
        return Record(path, descriptor, entry)

    def _write(self, path: pathlib.Path, entry: Entry) -> int:
        new = path.with_suffix(_NEW)
        descriptor = os.open(new, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        try:
            # Locked before it has its name: nobody finds it abandoned.
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            values = {'version': _VERSION, **dataclasses.asdict(entry)}
            os.write(descriptor, json.dumps(values).encode())
            os.fsync(descriptor)
            new.rename(path)
            _sync(self._directory)
        except BaseException:
            os.close(descriptor)
            new.unlink(missing_ok=True)
            raise
        return descriptor

    def running(self) -> Iterator[Record]:
        """Snapshots that a live process takes. To be looked at only."""
        for record, locked in self._records():
            record.keep()
            with record:
                if not locked:
                    yield record

    def abandoned(self) -> Iterator[Record]:
        """Snapshots that nobody takes any more, each locked for us."""
        self._sweep()
        for record, locked in self._records():
            if locked:
                yield record
            else:
                record.close()

    def _sweep(self) -> None:
        """Remove what never became an entry: its writer died."""
        for path in self._directory.glob('*' + _NEW):
            if path.with_suffix(_SUFFIX).exists():
                continue                # of an entry, and goes with it
            with contextlib.suppress(FileNotFoundError):
                age = time.time() - path.stat().st_mtime
                if age > _WRITE_SECONDS:
                    path.unlink()

    def _records(self) -> Iterator[tuple[Record, bool]]:
        for path in sorted(self._directory.glob('*' + _SUFFIX)):
            try:
                # Not to wait for a pipe that somebody put there.
                descriptor = os.open(
                    path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            except FileNotFoundError:
                continue                # it came to its end meanwhile
            except OSError as ex:
                _log_nonsense(path, ex)     # and the others are still there
                continue
            locked = _try_lock(descriptor)
            entry = _parse(path, descriptor)
            if entry is None or (locked and not path.exists()):
                os.close(descriptor)
                continue
            yield Record(path, descriptor, entry), locked


def _sync(path: pathlib.Path) -> None:
    """Make durable which files a directory has."""
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _parse(path: pathlib.Path, descriptor: int) -> Entry | None:
    try:
        values = json.loads(os.read(descriptor, 1 << 16))
        if values.pop('version') != _VERSION:
            raise ValueError('another version')
        return Entry(**values)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError,
            OSError) as ex:
        _log_nonsense(path, ex)
        return None


def _log_nonsense(path: pathlib.Path, error: Exception) -> None:
    LOG.error('The journal %(path)s makes no sense, look at it and remove it: '
              '%(error)s', {'path': path, 'error': error})

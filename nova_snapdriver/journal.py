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

"""What snapshots are under way, on disk, for the time after a crash.

One file a snapshot, written before its first effect and removed after its
last one. The process that takes the snapshot holds a lock (flock) on the file;
the kernel drops it when that process dies, however it does. So a file without
a lock is a snapshot that was abandoned, whichever container or pid namespace
one looks from.

What was done to the guest is noted beside it, durably, before it is done, and
the note goes once it is undone: nothing is undone twice. The journal knows
only what was begun; whose the guest is now, only Nova's database knows.
"""

from collections.abc import Iterator
import contextlib
import dataclasses
import datetime
import enum
import json
import os
import pathlib
import time
import types
from typing import Protocol
from typing import Self
import uuid

from oslo_log import log as logging

from nova_snapdriver import durable
from nova_snapdriver import exception
from nova_snapdriver import faultpoint

LOG = logging.getLogger(__name__)

_SUFFIX = '.json'
_PROGRESS = '.progress'
_PLANNED = '.planned'
_WHOLE = '.whole'
_GONE = '.gone'
_TARGET = '.target'
_VERSION = 2
_NO_SENSE = ('it makes no sense (%s): look at the server and the image it may '
             'name, then remove it')

# To write an entry takes milliseconds.
_WRITE_SECONDS = 3


class Mark(enum.StrEnum):
    """What was done to the guest and is not undone yet: a file's suffix."""

    #: Its file systems are frozen, or are about to be.
    FROZEN = '.frozen'
    #: It is saved and stopped, or is about to be.
    SUSPENDED = '.suspended'
    #: Devices of the host were taken from it, or are about to be.
    DETACHED = '.detached'
    #: QEMU had no room for our scratch file and paused it.
    PAUSED = '.paused'


_COMPANIONS = (durable.NEW, _PROGRESS, _PLANNED, _WHOLE, _GONE, _TARGET, *Mark)


@dataclasses.dataclass(frozen=True)
class Entry:
    """One snapshot, as it is begun.

    :param host: nova-compute's name ([DEFAULT] host); no other host undoes it
    :param instance: its UUID
    :param image: the image's UUID
    :param workspace: the private directory, which may not be there (yet)
    :param socket: of the export; it tells our backup job from others
    :param begun_at: ISO 8601, UTC
    :param visible: Glance showed the image to [service_user], so that "not
        found" means later that it is gone
    """

    host: str
    instance: str
    image: str
    workspace: str
    socket: str
    begun_at: str
    visible: bool = True

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            expected = bool if name == 'visible' else str
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
class Planned:
    """What a snapshot is about to make, beside files.

    :param path: of :class:`nova_snapdriver.plan.Path`; empty before that is
        planned
    :param snapshots: URLs of RBD snapshots of the disk
    :param clone: of the direct path, the URL of the copy in Glance's pool
    :param written: URL of the image that the disk is written into, in Ceph
    """

    path: str = ''
    snapshots: tuple[str, ...] = ()
    clone: str = ''
    written: str = ''


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


class Notes(Protocol):
    """Takes note of what a capture does to the guest; see :class:`Record`."""

    def keep(self) -> None:
        """Leave the entry for a recovery: something is not undone."""

    def mark(self, mark: Mark, text: str = '') -> None:
        """Note, durably, what is about to be done to the guest."""

    def unmark(self, mark: Mark) -> None:
        """Note, durably, that it is undone."""

    def marked(self, mark: Mark) -> str | None:
        """The text of a mark; none where it is not set."""


class Record:
    """An entry on disk, locked by this process.

    A snapshot holds it as a context manager: leaving that removes the entry,
    unless :meth:`keep` was called or what ends the block is no Exception
    (Ctrl-C, the end of the process). A recovery calls :meth:`remove` itself.
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
        if exc is not None and not isinstance(exc, Exception):
            self.keep()
        try:
            if not self._keep:
                self.remove()
        except OSError as ex:
            # Whatever the snapshot came to, that stands.
            self.keep()
            LOG.error('The journal %(path)s cannot be removed: %(error)s',
                      {'path': self._path, 'error': ex})
        finally:
            self.close()

    def remove(self) -> None:
        """Remove the entry: all is done.

        Its file first: what lies beside it alone says nothing.

        :raises OSError: it cannot be removed
        """
        faultpoint.reach('journal.removing')
        for suffix in (_SUFFIX, *_COMPANIONS):
            self._beside(suffix).unlink(missing_ok=True)
            self._beside(suffix + durable.NEW).unlink(missing_ok=True)
        faultpoint.reach('journal.removed')

    def close(self) -> None:
        """Unlock the entry, and leave it where it is."""
        os.close(self._descriptor)

    def keep(self) -> None:
        """Leave the entry for a recovery: something is not undone."""
        self._keep = True

    @property
    def kept(self) -> bool:
        """Whether the entry stays for a recovery."""
        return self._keep

    def progress(self, done: int, length: int) -> None:
        """Note how many of the image's bytes were sent. Never raises."""
        with contextlib.suppress(OSError):
            durable.replace(self._beside(_PROGRESS),
                            json.dumps([done, length]), sync=False)

    def sent(self) -> tuple[int, int] | None:
        """The bytes sent and the length of the image; none if not known."""
        try:
            done, length = json.loads(durable.read(self._beside(_PROGRESS)))
            return int(done), int(length)
        except durable.BROKEN:
            return None

    def note_planned(self, planned: Planned) -> None:
        """Note, durably, what is about to be made.

        :raises JournalUnusable: it cannot be written
        """
        self._write(_PLANNED, json.dumps(dataclasses.asdict(planned)))

    @property
    def planned(self) -> Planned:
        """What may have been made.

        :raises JournalUnusable: it cannot be read
        """
        try:
            values = json.loads(durable.read(self._beside(_PLANNED)))
            return Planned(str(values['path']),
                           tuple(map(str, values['snapshots'])),
                           str(values['clone']),
                           str(values.get('written', '')))
        except FileNotFoundError:
            return Planned()
        except durable.BROKEN as ex:
            raise exception.JournalUnusable(reason=ex) from ex

    def note_whole(self, whole: Whole) -> None:
        """Note, durably, what Glance has to hold once it has all of it.

        :raises JournalUnusable: it cannot be written
        """
        self._write(_WHOLE, json.dumps(dataclasses.asdict(whole)))

    @property
    def whole(self) -> Whole | None:
        """What was sent; none if that was not all, or is not known."""
        try:
            return Whole(**json.loads(durable.read(self._beside(_WHOLE))))
        except durable.BROKEN:
            return None

    def note_target(self, target: str) -> None:
        """Note, durably, where a snapshot without Nova is about to go.

        :param target: path of a file that is not whole yet, or ``glance``
        :raises JournalUnusable: it cannot be written
        """
        self._write(_TARGET, target)

    @property
    def target(self) -> str:
        """Where it was to go; empty if nothing was made there.

        :raises JournalUnusable: it cannot be read
        """
        return self._noted(_TARGET) or ''

    def note_gone(self) -> None:
        """Note, durably, that Glance has deleted the image.

        :raises JournalUnusable: it cannot be written
        """
        self._write(_GONE, '')

    @property
    def gone(self) -> bool:
        """Whether the image is known to be gone."""
        return self._beside(_GONE).exists()

    def mark(self, mark: Mark, text: str = '') -> None:
        """Note, durably, what is about to be done to the guest.

        :param text: of one line, to be read with :meth:`marked`
        :raises JournalUnusable: it cannot be written
        """
        self._write(mark, text)

    def unmark(self, mark: Mark) -> None:
        """Note, durably, that it is undone, or left alone for good.

        :raises JournalUnusable: it cannot be written
        """
        try:
            durable.remove(self._beside(mark))
        except OSError as ex:
            raise exception.JournalUnusable(reason=ex) from ex

    def marked(self, mark: Mark) -> str | None:
        """The text of a mark; none where it is not set.

        :raises JournalUnusable: it cannot be read
        """
        return self._noted(mark)

    def _noted(self, suffix: str) -> str | None:
        try:
            return durable.read(self._beside(suffix))
        except FileNotFoundError:
            return None
        except OSError as ex:
            raise exception.JournalUnusable(reason=ex) from ex

    def _write(self, suffix: str, text: str) -> None:
        try:
            durable.replace(self._beside(suffix), text)
        except OSError as ex:
            raise exception.JournalUnusable(reason=ex) from ex

    def _beside(self, suffix: str) -> pathlib.Path:
        return self._path.with_name(self._path.stem + suffix)


@dataclasses.dataclass(frozen=True)
class Unusable:
    """An entry that is not for us, and why, with what to do about it."""

    path: pathlib.Path
    reason: str


class Journal:
    """The entries of one host.

    :param directory: made at the first entry, for this user alone
    :param host: nova-compute's name ([DEFAULT] host)
    """

    def __init__(self, directory: str, host: str) -> None:
        self._directory = pathlib.Path(directory)
        self.host = host

    def __bool__(self) -> bool:
        """Whether there is an entry, of any kind.

        :raises JournalUnusable: the directory cannot be read
        """
        return bool(self._paths())

    def begin(self, entry: Entry) -> Record:
        """Write an entry, durably.

        :raises JournalUnusable: it cannot be written
        """
        path = self._directory / (str(uuid.uuid4()) + _SUFFIX)
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            values = {'version': _VERSION, **dataclasses.asdict(entry)}
            descriptor = durable.create_locked(path, json.dumps(values))
        except OSError as ex:
            raise exception.JournalUnusable(reason=ex) from ex
        faultpoint.reach('journal.written')
        return Record(path, descriptor, entry)

    def running(self) -> Iterator[Record]:
        """Snapshots that a live process takes. To be looked at only."""
        for record, locked in self.records():
            with contextlib.closing(record):
                if not locked:
                    yield record

    def abandoned(self) -> Iterator[Record]:
        """Snapshots that nobody takes any more, each locked for us.

        The caller closes each, and removes it once it is undone.

        :raises JournalUnusable: the directory cannot be read
        """
        self._sweep()
        for record, locked in self.records(durable.LOOK_SECONDS):
            if locked:
                yield record
            else:
                record.close()

    def unusable(self) -> list[Unusable]:
        """Entries that are not for us: to be shown, and left alone.

        :raises JournalUnusable: the directory cannot be read
        """
        unusable = []
        for path in self._paths():
            found = self._look(path)
            if isinstance(found, Unusable):
                unusable.append(found)
            elif found is not None:
                found[0].close()        # and its lock with it
        return unusable

    def _sweep(self) -> None:
        """Remove what is no entry (any more): its process died meanwhile."""
        for suffix in _COMPANIONS:
            for path in self._directory.glob('*' + suffix):
                entry = path.name.partition('.')[0] + _SUFFIX
                if path.with_name(entry).exists():
                    continue            # of an entry, and goes with it
                with contextlib.suppress(OSError):
                    age = time.time() - path.stat().st_mtime
                    if age > _WRITE_SECONDS:
                        path.unlink()

    def _paths(self) -> list[pathlib.Path]:
        try:
            return sorted(self._directory / name
                          for name in os.listdir(self._directory)
                          if name.endswith(_SUFFIX))
        except FileNotFoundError:
            return []                   # no snapshot was ever begun
        except OSError as ex:
            raise exception.JournalUnusable(reason=ex) from ex

    def records(self, patience: float = 0) -> Iterator[tuple[Record, bool]]:
        """Each entry, and whether it is locked for us; the caller closes."""
        for path in self._paths():
            found = self._look(path, patience)
            if found is not None and not isinstance(found, Unusable):
                yield found

    def _look(self, path: pathlib.Path, patience: float = 0
              ) -> tuple[Record, bool] | Unusable | None:
        """An entry and whether it is locked for us; none if it has ended."""
        try:
            descriptor = durable.open_to_lock(path)
        except FileNotFoundError:
            return None
        except OSError as ex:
            return Unusable(path, 'it cannot be opened (%s): run this as the '
                            'user of nova-compute, on its host' % ex)
        try:
            entry = _parse(descriptor)
            if entry.host != self.host:
                raise ValueError(
                    'it is of the host %s, and this one is %s: run '
                    '"nova-snapdriver recover" there' %
                    (entry.host, self.host))
            locked = durable.try_lock(descriptor, patience)
        except (ValueError, OSError) as ex:
            os.close(descriptor)
            return Unusable(path, str(ex)) if path.exists() else None
        if locked and not path.exists():
            os.close(descriptor)
            return None
        return Record(path, descriptor, entry), locked


def _parse(descriptor: int) -> Entry:
    """:raises ValueError: it makes no sense, with what to do about it"""
    try:
        values = json.loads(os.read(descriptor, durable.MAX_BYTES))
        version = values.pop('version')
    except durable.BROKEN as ex:
        raise ValueError(_NO_SENSE % ex) from ex
    if version != _VERSION:
        raise ValueError(
            'it has the format %s, and this nova-snapdriver reads %d: run '
            '"nova-snapdriver recover" of the version that wrote it' %
            (str(version)[:8], _VERSION))
    try:
        return Entry(**values)
    except (ValueError, TypeError) as ex:
        raise ValueError(_NO_SENSE % ex) from ex

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

"""Attack as a hostile guest, local user or user of the cloud, one row each."""

import argparse
import collections.abc
import dataclasses
import pathlib
import random

from lab.attacks import bystander
from lab.attacks import hostile
from lab.attacks import liar
from lab.attacks import streamattack
from lab.attacks import victim
from lab import command
from lab.observe import disks
from lab.openstack import config
from lab.openstack import services
from lab.openstack import settings
from lab.openstack import stack

# One of each kind, for the end-to-end tests.
QUICK = ('live raw running: qcow2 with a backing file',
         'live raw running: VMDK that names a file',
         'cold raw stopped: qcow2 with a data file',
         'live raw running: another local user',
         'live raw running: children and secrets',
         'live raw running: names full of injection',
         'live raw running as nova: QEMU exchanges files for links')


@dataclasses.dataclass(frozen=True)
class Way:
    """A path, on a kind of disk, in a state."""

    path: str
    disk: str
    state: str
    options: config.Options = ()
    user: str = config.ROOT
    #: Whether images are written into Glance's pool in Ceph.
    written: bool = False

    @property
    def name(self) -> str:
        user = '' if self.user == config.ROOT else f' as {self.user}'
        place = ' into Ceph' if self.written else ''
        return f'{self.path} {self.disk} {self.state}{user}{place}'

    @property
    def compute(self) -> config.Compute:
        return config.Compute(options=disks.DISKS[self.disk] + self.options,
                              user=self.user, rbd=self.written)

    @property
    def images(self) -> config.Images:
        return disks.IN_CEPH if self.written else config.Images()


def _ways(disk: str) -> list[Way]:
    return [Way('live', disk, 'running'), Way('cold', disk, 'stopped'),
            Way('mirror', disk, 'running', disks.MIRROR),
            Way('cold', disk, 'running', disks.SUSPEND)]


RAW = _ways('raw')
WRITTEN = dataclasses.replace(RAW[0], options=disks.WRITTEN, written=True)
OTHERS = [*_ways('overlay'), *_ways('qcow2')[:2], *_ways('block')[:2]]


@dataclasses.dataclass
class Row(command.Row):
    """The result of one attack."""

    seed: int = 0
    advisory: str = ''
    #: `equal`: the image is the disk; `refused`: by Glance or the driver.
    outcome: str = ''
    peak_bytes: int | None = None


@dataclasses.dataclass(frozen=True)
class Attack:
    """A row to be; without a way, it needs no server."""

    name: str
    way: Way | None
    action: collections.abc.Callable[['Attacks', Row], None]
    advisory: str = ''


class Attacks:
    """Attacks a server for each kind of disk."""

    def __init__(self, lab: stack.Stack, seed: int,
                 target: pathlib.Path | None = None) -> None:
        self.lab, self.seed = lab, seed
        self.chance = random.Random(seed)
        self.folder = lab.settings.root / 'attacks'
        settings.make_directory(self.folder)
        self.canary = hostile.Canary(self.folder, self.chance)
        self.headers = {header.name: header for header in
                        hostile.make(self.canary, self.folder)}
        self.table = command.Table(line, target)
        self._victims: dict[str, victim.Victim] = {}
        self._compute: config.Compute | None = None
        self._images = config.Images()

    @property
    def rows(self) -> list[Row]:
        return self.table.rows

    def run(self, wanted: list[Attack]) -> None:
        """Attack; restore nova-compute's options and umask."""
        # First, as other options would disturb servers of a former run.
        self.lab.cloud.clean(victim.NAME, victim.NAME)
        try:
            for attack in wanted:
                self._row(attack)
        finally:
            while self._victims:
                self._victims.popitem()[1].remove()
            if self._compute is not None:
                self._stop_compute(self._compute)
                self.lab.compute(config.Compute())
            if self._images != config.Images():
                self.lab.images(config.Images())
                self.lab.ceph.stop()

    def _stop_compute(self, choice: config.Compute) -> None:
        """Stop nova-compute, so that it starts with this process's umask."""
        services.NovaCompute(self.lab.settings, choice).stop()

    def _row(self, attack: Attack) -> None:
        row = Row(attack.name, seed=self.seed, advisory=attack.advisory)
        try:
            if attack.way is not None:
                self._use(attack.way)
            attack.action(self, row)
        except (settings.LabError, OSError, ValueError) as error:
            row.problems.append(str(error))
            # The next row needs a server in a known state.
            if attack.way is not None and attack.way.disk in self._victims:
                self._victims.pop(attack.way.disk).remove()
        self.table.add(row)

    def _use(self, way: Way) -> None:
        if self._images != way.images:
            self._images = way.images
            self.lab.images(way.images)
        if self._compute != way.compute:
            with bystander.umask_zero():
                if self._compute is None:
                    self._stop_compute(way.compute)
                self.lab.compute(way.compute)
            self._compute = way.compute
        self.target(way).enter(way.state)

    def target(self, way: Way) -> victim.Victim:
        """Return the server with that kind of disk."""
        if way.disk not in self._victims:
            self._victims[way.disk] = victim.Victim(
                self.lab, self.folder, way.disk)
        return self._victims[way.disk]

    def injected(self, way: Way) -> victim.Victim:
        """Return a server whose names are attacks."""
        key = f'{way.disk} injected'
        if key not in self._victims:
            self._victims[key] = bystander.injected_victim(
                self.lab, self.folder, way.disk)
        return self._victims[key]


# The guest


def disguised(header_name: str) -> '_Action':
    """Have the guest write a header to its disk."""
    def act(attacks: Attacks, row: Row, way: Way) -> None:
        header = attacks.headers[header_name]
        _require_sharp(attacks, header)
        target = attacks.target(way)
        target.write(header.pieces())
        before = target.content()
        if not all(before[offset:].startswith(content)
                   for offset, content in header.pieces()):
            raise settings.LabError('the header is not on the disk')
        outcome = target.snapshot()
        _judge(attacks, row, outcome, before)
        if target.content() != before:
            row.problems.append('the disk has changed')
        row.problems += target.harmed(way.state)

    return act


def _require_sharp(attacks: Attacks, header: hostile.Header) -> None:
    """Check that what believes the header does read the canary."""
    if header.name not in hostile.LEAKING:
        return
    if attacks.canary.secret not in hostile.believed(header, attacks.folder):
        raise settings.LabError('the attack is blunt')


def _judge(attacks: Attacks, row: Row, outcome: victim.Outcome,
           disk: bytes) -> None:
    """Accept an image that is the disk, or a clear refusal."""
    row.seconds = outcome.seconds
    secret = attacks.canary.secret
    if secret in outcome.content or secret in outcome.stored:
        row.problems.append('THE CANARY IS IN THE IMAGE')
    if outcome.image is None:
        row.outcome = 'refused'
        if not victim.REFUSED.search(outcome.log):
            row.problems.append('no image, and no refusal in the log')
    else:
        row.outcome = 'equal'
        if outcome.content != disk:
            row.outcome = 'different'
            row.problems.append('the image is not the disk')


def named_by_nova(attacks: Attacks, row: Row, way: Way) -> None:
    """Have the qcow2 disk itself name a file of the host."""
    target = attacks.target(way)
    disk = target.server.disk
    kept = disk.read_bytes()
    # In place: the owner stays, and QEMU's lock is on the file.
    header = attacks.headers['qcow2 with a backing file'].path
    disk.write_bytes(header.read_bytes())
    try:
        outcome = target.snapshot()
    finally:
        disk.write_bytes(kept)
    row.seconds, row.outcome = outcome.seconds, 'refused'
    if outcome.image is not None:
        row.outcome = 'image'
        row.problems.append('it was read')
    if 'neither in the image cache nor beside' not in outcome.log:
        row.problems.append('the log does not say why')
    row.problems += target.harmed(way.state)


# Other users of the host, and of the cloud


def looked_at(attacks: Attacks, row: Row, way: Way) -> None:
    """Try everything that a snapshot has on the host as another user."""
    target = attacks.target(way)
    target.write([])                    # Glance may refuse a header
    with bystander.Held(target) as held:
        row.problems += bystander.intrude(held)
    row.problems += target.harmed(way.state)


def exchanged(attacks: Attacks, row: Row, way: Way) -> None:
    """Exchange files of a snapshot for links, as a taken over QEMU may."""
    target = attacks.target(way)
    target.write([])                    # Glance may refuse a header
    row.problems += bystander.exchange(target, attacks.folder)
    row.problems += target.harmed(way.state)


def planted(attacks: Attacks, row: Row, way: Way) -> None:
    """Have another user make the scratch directory, or a link to one."""
    with bystander.umask_zero():
        row.problems += bystander.plant(
            attacks.lab, attacks.target(way), way.compute)
    row.outcome = 'refused'


def children(attacks: Attacks, row: Row, way: Way) -> None:
    """Check limits and environments of children; look for secrets."""
    target = attacks.target(way)
    target.write([])                    # Glance may refuse a header
    row.problems += bystander.inspect(target, way.path)
    row.problems += target.harmed(way.state)


def injected(attacks: Attacks, row: Row, way: Way) -> None:
    """Have names and properties try to be a command, XML or a header."""
    row.problems += bystander.inject(attacks.injected(way), way.state)


# The stream


def lied_to(name: str, lie: liar.Lie) -> Attack:
    """Have an NBD server lie to the stream process."""
    def act(attacks: Attacks, row: Row) -> None:
        found = _stream(attacks, row, lie, streamattack.PATIENCE_SECONDS)
        row.outcome = 'refused' if found.status else 'image'
        row.problems += found.problems()

    return Attack(f'stream: {name}', None, act)


def fragmented(attacks: Attacks, row: Row) -> None:
    """Serve a map with a million extents of 4 KiB."""
    found = _stream(attacks, row, streamattack.MILLION, 60.0)
    row.outcome = 'equal'
    row.problems += found.problems(streamattack.MILLION)


def _stream(attacks: Attacks, row: Row, lie: liar.Lie,
            patience: float) -> streamattack.Result:
    found = streamattack.attempt(lie, attacks.folder,
                                 attacks.lab.settings.bin('python'),
                                 patience=patience)
    row.seconds, row.peak_bytes = found.seconds, found.peak_bytes
    return found


_Action = collections.abc.Callable[[Attacks, Row, Way], None]


def _on(way: Way, words: str, action: _Action, advisory: str = '') -> Attack:
    return Attack(f'{way.name}: {words}', way,
                  lambda attacks, row: action(attacks, row, way), advisory)


def attacks() -> list[Attack]:
    """Return all rows, those with the same options in sequence."""
    found: list[Attack] = []
    for way in [*RAW, *OTHERS]:
        names = (list(hostile.ADVISORIES) if way in RAW
                 else [*hostile.LEAKING[:1], *hostile.LEAKING[-1:],
                       'luks header'])
        found += [_on(way, name, disguised(name), hostile.ADVISORIES[name])
                  for name in names]
        if way in RAW:
            found += [
                _on(way, 'children and secrets', children, 'OSSA-2016-012'),
                _on(way, 'names full of injection', injected),
                _on(way, 'another local user', looked_at, 'OSSA-2014-001')]
    found += [_on(Way('cold', 'qcow2', 'stopped'),
                  'a disk on a file of the host', named_by_nova,
                  'OSSA-2024-001'),
              _on(RAW[0], 'a planted symlink', planted, 'OSSA-2014-001')]
    # Not root: its nova-compute has a privileged process change owners.
    found += [_on(dataclasses.replace(way, user=user),
                  'QEMU exchanges files for links', exchanged)
              for way in RAW for user in config.USERS]
    found += [_on(WRITTEN, name, disguised(name), hostile.ADVISORIES[name])
              for name in hostile.LEAKING]
    found += [_on(WRITTEN, 'children and secrets', children, 'OSSA-2016-012'),
              _on(WRITTEN, 'another local user', looked_at, 'OSSA-2014-001'),
              _on(WRITTEN, 'QEMU exchanges files for links', exchanged)]
    found += [lied_to(*one) for one in liar.LIES.items()]
    return [*found, Attack('stream: a map of a million extents', None,
                           fragmented)]


def line(row: Row) -> str:
    """Format a row."""
    seconds = '-' if row.seconds is None else f'{row.seconds:.1f}'
    peak = '' if row.peak_bytes is None else f'{row.peak_bytes >> 20} MiB'
    return (f'{row.name:60}{"yes" if row.ok else "NO":4}{seconds:>7}'
            f'  {row.outcome:9}{peak}').rstrip()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    command.add_json(parser)
    command.add_only(parser)
    command.add_seed(parser)


def run(lab: stack.Stack, args: argparse.Namespace) -> int:
    print(f'seed {args.seed}', flush=True)
    made = Attacks(lab, args.seed, args.json)
    made.run(command.chosen(attacks(), args.only))
    return made.table.status()

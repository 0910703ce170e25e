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

"""Attacks by another user, of the host or of the cloud."""

import collections.abc
import contextlib
import json
import os
import pathlib
import pwd
import re
import resource
import signal
import subprocess
import tempfile
from typing import Self

from lab.attacks import victim
from lab.observe import measure
from lab.observe import processes
from lab.observe import remains
from lab.observe import repeat
from lab.openstack import config
from lab.openstack import process
from lab.openstack import services
from lab.openstack import settings
from lab.openstack import stack

NOBODY = 65534
HOLD_TIMEOUT = 60.0
HOLD_POLL_SECONDS = 0.005

# Reads attempts, a line of JSON each, and prints those that succeed.
INTRUDER = '''
import json, os, socket, sys
def connect(path):
    socket.socket(socket.AF_UNIX).connect(path)
def read(path):
    open(path, "rb").read(1)
def write(path):
    open(path, "r+b")
def plant(path):
    os.symlink("/etc", path + "/planted")
def steal(path):
    os.rename(path, path + "-stolen")
for line in sys.stdin:
    what, path = json.loads(line)
    try:
        {"list": os.listdir, "read": read, "write": write, "stat": os.stat,
         "connect": connect, "plant": plant, "steal": steal}[what](path)
    except OSError:
        continue
    print(line.strip())
'''
Attempts = list[tuple[str, str]]


def as_nobody(attempts: Attempts) -> Attempts:
    """Make attempts as another local user; return those that succeed."""
    done = subprocess.run(
        ['setpriv', f'--reuid={NOBODY}', f'--regid={NOBODY}',
         '--clear-groups', '/usr/bin/python3', '-c', INTRUDER], text=True,
        input=''.join(json.dumps(one) + '\n' for one in attempts), cwd='/',
        capture_output=True, env=settings.environment())
    if done.returncode:
        raise settings.LabError(f'the intruder failed: {done.stderr}')
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()]


def _limit(one: processes.Process, kind: int) -> int:
    """Return a limit of a process; unlimited if it is gone."""
    try:
        return resource.prlimit(one.pid, kind)[0]
    except ProcessLookupError:
        return resource.RLIM_INFINITY


class Held:
    """A snapshot whose stream process is stopped meanwhile."""

    def __init__(self, target: victim.Victim) -> None:
        self.target = target

    def __enter__(self) -> Self:
        self._image = self.target.api.create_image(
            self.target.server.id, f'{victim.NAME}-held')
        found: list[processes.Process] = []

        def there() -> bool:
            found[:] = [
                one for one, program in
                victim.children(self.target.conf).items()
                if program == victim.STREAM and _limit(
                    one, resource.RLIMIT_AS) != resource.RLIM_INFINITY]
            return bool(found)

        process.wait_for('the stream', there, HOLD_TIMEOUT,
                         self.target.conf.log('nova-compute'),
                         HOLD_POLL_SECONDS)
        self.pid = found[0].pid
        os.kill(self.pid, signal.SIGSTOP)
        return self

    def __exit__(self, kind: type[BaseException] | None,
                 *error: object) -> None:
        os.kill(self.pid, signal.SIGCONT)
        image = self.target.finish(self._image)
        self.target.api.delete_image(self._image)
        if image is None and kind is None:
            raise settings.LabError('the snapshot failed',
                                    self.target.conf.log('nova-compute'))


def intrude(held: Held) -> list[str]:
    """Try everything that a snapshot has; return what succeeds."""
    conf = held.target.conf
    status = pathlib.Path(f'/proc/{processes.compute(conf).pid}/status')
    if 'Umask:\t0000' not in status.read_text():
        return ['nova-compute has an umask']
    control = ('stat', str(conf.snapshots))
    attempts = [control, ('plant', str(conf.snapshots))]
    folders = [*conf.snapshots.iterdir(), remains.journal(conf)]
    for folder in folders:
        attempts += [(what, str(folder))
                     for what in ('list', 'plant', 'steal')]
        for path in folder.iterdir():
            attempts += [(what, str(path)) for what in
                         ('read', 'write', 'connect', 'steal')]
    attempts += [('read', f'/proc/{held.pid}/{name}')
                 for name in ('environ', 'mem')]
    attempts += [('list', f'/proc/{held.pid}/fd')]
    succeeded = as_nobody(attempts)
    if control not in succeeded or len(folders) < 2:
        return ['the intruder did not get to try']
    return [f'another user could {what} {path}'
            for what, path in succeeded if (what, path) != control]


def plant(lab: stack.Stack, target: victim.Victim,
          choice: config.Compute) -> list[str]:
    """Point the scratch directory to another user's link to a directory."""
    with tempfile.TemporaryDirectory(dir='/var/tmp') as area:
        os.chmod(area, 0o1777)
        theirs, link = pathlib.Path(area, 'theirs'), pathlib.Path(area, 's')
        theirs.mkdir(mode=0o777)
        os.chown(theirs, NOBODY, NOBODY)
        link.symlink_to(theirs)
        os.lchown(link, NOBODY, NOBODY)
        lab.compute(config.Compute(options=(
            *choice.options, ('snapdriver', 'scratch_directory', str(link)))))
        try:
            outcome = target.snapshot()
        finally:
            lab.compute(choice)
        checks = {'an image was made': outcome.image is not None,
                  'the log does not say why':
                      f'{theirs} belongs to user' not in outcome.log,
                  'something is in it': any(theirs.iterdir())}
    return [words for words, wrong in checks.items() if wrong
            ] + target.harmed('running')


# Another QEMU, taken over

# Puts a link to a file of the host in the place of what a snapshot has, again
# and again, as QEMU's user. Root only tells it the directory's name, which the
# QEMU of that guest knows.
EXCHANGER = '''
import os, pathlib, sys, time
uid, parent, target = int(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3]
print("ready", flush=True)
while True:
    for place in parent.glob("snapdriver-*"):
        os.seteuid(uid)
        for name in ("nbd", "overlay", "copy"):
            path = str(place / name)
            for link in (os.symlink, os.link):
                try:
                    link(target, path + ".new")
                    os.rename(path + ".new", path)
                    print(path, flush=True)
                except OSError:
                    pass
        os.seteuid(0)
    time.sleep(0.001)
'''


def exchange(target: victim.Victim, folder: pathlib.Path) -> list[str]:
    """Take a snapshot while QEMU's user exchanges its files for links."""
    secret = folder / 'of-the-host'
    secret.write_text('not for nova-compute')
    secret.chmod(0o600)
    before = secret.stat()
    uid = pwd.getpwnam('libvirt-qemu').pw_uid
    with subprocess.Popen(
            ['/usr/bin/python3', '-c', EXCHANGER, str(uid),
             str(target.conf.snapshots), str(secret)], text=True,
            stdout=subprocess.PIPE, env=settings.environment()) as attacker:
        assert attacker.stdout is not None
        attacker.stdout.readline()
        try:
            target.snapshot()
        finally:
            attacker.kill()
    after = secret.stat()
    if (after.st_uid, after.st_gid, after.st_mode, after.st_size) != (
            before.st_uid, before.st_gid, before.st_mode, before.st_size):
        return [f'{secret} belongs to {after.st_uid}:{after.st_gid} now, with '
                f'{after.st_size} bytes']
    return []


# The children

LIMITS = {'address space': resource.RLIMIT_AS,
          'open files': resource.RLIMIT_NOFILE,
          'core file size': resource.RLIMIT_CORE,
          'cpu time': resource.RLIMIT_CPU}
MAX_OPEN_FILES = 1024
MAX_CEPH_FILES = 16384
ENVIRONMENT = {'PATH', 'LANG', 'LC_ALL', 'PYTHONPATH', 'MALLOC_ARENA_MAX'}
PROGRAMS = {'live': {victim.STREAM}, 'mirror': {victim.STREAM, 'qemu-nbd'},
            'cold': {victim.STREAM, 'qemu-nbd'}}
# Of Keystone's fernet tokens.
TOKEN = re.compile(r'gAAAAA[A-Za-z0-9_-]{40,}')


class _Sampler:
    """Looks at all children, again and again."""

    def __init__(self, conf: settings.Settings) -> None:
        self._conf = conf
        #: Program, command, limits and environment, as seen last.
        self.seen: dict[processes.Process, tuple[
            str, str, dict[str, int], dict[str, str]]] = {}

    def look(self) -> None:
        for one, program in victim.children(self._conf).items():
            with contextlib.suppress(processes.Gone):
                environment = one.environ()
                limits = {name: _limit(one, kind)
                          for name, kind in LIMITS.items()}
                if one.is_running() and environment:
                    self.seen[one] = (program, processes.command(one),
                                      limits, environment)


def inspect(target: victim.Victim, path: str) -> list[str]:
    """Take a snapshot; check its children, and look for secrets."""
    sampler = _Sampler(target.conf)
    with repeat.repeated(sampler.look, HOLD_POLL_SECONDS):
        outcome = target.snapshot()
    programs = {program for program, *_ in sampler.seen.values()}
    problems = [f'no {program} was seen'
                for program in PROGRAMS[path] - programs]
    if outcome.image is None:
        problems.append('the snapshot failed')
    told = [*map(processes.command, processes.every()),
            _log(target.conf)]
    for program, command, limits, environment in sampler.seen.values():
        problems += [f'{program} has no limit: {name}'
                     for name in _wrong_limits(command, limits)]
        problems += [f'{program} has {name} in its environment'
                     for name in sorted(environment.keys() - ENVIRONMENT)]
        told += [command, *environment.values()]
    return problems + _secrets(target, '\n'.join(told))


def _wrong_limits(command: str, limits: dict[str, int]) -> list[str]:
    # librbd has a connection to each OSD.
    files = MAX_CEPH_FILES if '--rbd-image' in command else MAX_OPEN_FILES
    most = {'open files': files, 'core file size': 0}
    wrong = {name for name, limit in limits.items()
             if limit == resource.RLIM_INFINITY
             or limit > most.get(name, limit)}
    # Only for what reads no more than headers there is a time.
    if not re.search('qemu-img (info|create)', command):
        wrong -= {'cpu time'}
    return sorted(wrong)


def _log(conf: settings.Settings) -> str:
    """Return what nova-compute has logged since its start, with DEBUG."""
    text = conf.log('nova-compute').read_bytes()
    return text.rpartition(services.NovaDaemon.MARK)[2].decode(
        errors='replace')


def _secrets(target: victim.Victim, text: str) -> list[str]:
    checks = {'the password': target.conf.password in text,
              "the administrator's token": target.api.token() in text,
              'a token': TOKEN.search(text) is not None}
    return [f'{words} is in a log, a command line or an environment'
            for words, wrong in checks.items() if wrong]


# Injection

FORGED = 'FORGED: a line of its own in the log'
# Created by what is executed. Short: a name has 255 characters.
MARK = pathlib.Path('/var/tmp/snapdriver-executed')


def injection() -> tuple[str, dict[str, str]]:
    """Return a name and properties that try to be something else."""
    command = f'touch {MARK}'
    name = (f'{victim.NAME} $({command}) `{command}` ;{command}; |{command} '
            f'\'"]]></name><x a="&lt;%s%n{{}}ä漢 -f /etc/shadow')
    # Glance and Nova take any property; a name has to be printable.
    return name, {
        'x_lines': f'a\r\nX-Injected: yes\r\n\r\n{FORGED}\n{FORGED}',
        'x_shell': f'$({command});`{command}`|{command}\n{command}\n',
        'x_xml': '<!DOCTYPE x [<!ENTITY y SYSTEM "file:///etc/shadow">]>&y;'
                 ']]></metadata>',
        'x_bytes': 'ä漢\u202e\x7f\x01'}


def inject(target: victim.Victim, state: str) -> list[str]:
    """Take a snapshot under such a name; the server has one, too."""
    MARK.unlink(missing_ok=True)
    name, metadata = injection()
    target.enter(state)
    log = measure.Said(target.conf.log('nova-compute'))
    before = target.content()
    outcome = target.snapshot(name, metadata)
    image = outcome.image or {}
    given = {'name': name, **metadata,
             **{f'base_{key}': value for key, value in metadata.items()}}
    problems = [f'{key} is {image.get(key)!r}, not {value!r}'
                for key, value in given.items() if image.get(key) != value]
    checks = {'something was executed': MARK.exists(),
              'the log has a forged line':
                  log.matches(f'(?m)^{FORGED}'),
              'the image is not the disk': outcome.content != before}
    return problems + [words for words, wrong in checks.items() if wrong
                       ] + target.harmed(state)


def injected_victim(lab: stack.Stack, folder: pathlib.Path,
                    disk: str) -> victim.Victim:
    """Boot a server with such a name, of an image with such properties."""
    name, metadata = injection()
    return victim.Victim(lab, folder, disk, {
        'name': name, **{f'base_{key}': value
                         for key, value in metadata.items()}}, name)


@contextlib.contextmanager
def umask_zero() -> collections.abc.Iterator[None]:
    """Start processes without an umask."""
    before = os.umask(0)
    try:
        yield
    finally:
        os.umask(before)

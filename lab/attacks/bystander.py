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
"""Who stands beside a snapshot: another local user, a tenant, a log reader."""

import collections.abc
import contextlib
import json
import os
import pathlib
import re
import signal
import subprocess
import tempfile
import types

from lab.attacks import victim
from lab.observe import measure
from lab.observe import repeat
from lab.openstack import config
from lab.openstack import process
from lab.openstack import settings
from lab.openstack import stack

NOBODY = 65534
HOLD_TIMEOUT = 60.0
HOLD_POLL_SECONDS = 0.005
LIMITED = re.compile(r'Max address space +\d')

# One line of JSON for each attempt in, those that succeeded out.
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
    """What another local user succeeds with."""
    done = subprocess.run(
        ['setpriv', f'--reuid={NOBODY}', f'--regid={NOBODY}',
         '--clear-groups', '/usr/bin/python3', '-c', INTRUDER], text=True,
        input=''.join(json.dumps(one) + '\n' for one in attempts), cwd='/',
        capture_output=True, env=settings.environment())
    if done.returncode:
        raise settings.LabError(f'the intruder failed: {done.stderr}')
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()]


class Held:
    """A snapshot whose stream stands still, so that one can look around."""

    def __init__(self, target: victim.Victim) -> None:
        self.target = target

    def __enter__(self) -> 'Held':
        conf = self.target.lab.settings
        self._image = self.target.begin(f'{victim.NAME}-held')
        found: list[victim.Child] = []

        def there() -> bool:
            found[:] = [child for child in victim.children(conf)
                        if child.program == victim.STREAM
                        and LIMITED.search(child.read('limits'))]
            return bool(found)

        process.wait_for('the stream', there, HOLD_TIMEOUT,
                         conf.log('nova-compute'), HOLD_POLL_SECONDS)
        self.stream = found[0]
        os.kill(self.stream.pid, signal.SIGSTOP)
        return self

    def __exit__(self, kind: type[BaseException] | None,
                 error: BaseException | None,
                 trace: types.TracebackType | None) -> None:
        os.kill(self.stream.pid, signal.SIGCONT)
        image = self.target.finish(self._image)
        self.target.api.delete_image(self._image)
        if image is None and error is None:
            raise settings.LabError('the snapshot failed',
                                    self.target.lab.settings.log(
                                        'nova-compute'))


def intrude(held: Held) -> list[str]:
    """What another user got at, of all that the snapshot has."""
    conf = held.target.lab.settings
    umask = victim.Child(victim.compute_pid(conf), '').read('status')
    if 'Umask:\t0000' not in umask:
        return ['nova-compute has an umask']
    control = ('stat', str(conf.snapshots))
    attempts = [control, ('plant', str(conf.snapshots))]
    folders = [*conf.snapshots.iterdir(), conf.nova / 'snapdriver']
    for folder in folders:
        attempts += [(what, str(folder))
                     for what in ('list', 'plant', 'steal')]
        for path in folder.iterdir():
            attempts += [(what, str(path)) for what in
                         ('read', 'write', 'connect', 'steal')]
    attempts += [('read', f'/proc/{held.stream.pid}/{name}')
                 for name in ('environ', 'mem')]
    attempts += [('list', f'/proc/{held.stream.pid}/fd')]
    succeeded = as_nobody(attempts)
    if control not in succeeded or len(folders) < 2:
        return ['the intruder did not get to try']
    return [f'another user could {what} {path}'
            for what, path in succeeded if (what, path) != control]


def plant(lab: stack.Stack, target: victim.Victim,
          choice: config.Compute) -> list[str]:
    """Have another user make the scratch directory: a link to one of his."""
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


# The children

# What each has to have, by the kernel's names for it.
LIMITS = ('Max address space', 'Max open files', 'Max core file size')
UNLIMITED = 'unlimited'
MAX_OPEN_FILES = 1024
ENVIRONMENT = {'PATH', 'LANG', 'LC_ALL', 'PYTHONPATH', 'MALLOC_ARENA_MAX'}
PROGRAMS = {'live': {victim.STREAM}, 'mirror': {victim.STREAM, 'qemu-nbd'},
            'cold': {victim.STREAM, 'qemu-nbd'}}
TOKEN = re.compile(r'gAAAAA[A-Za-z0-9_-]{40,}')


class _Sampler:
    """Looks at all children, and at all command lines, again and again."""

    def __init__(self, conf: settings.Settings) -> None:
        self._conf = conf
        #: limits and environment, as seen last.
        self.seen: dict[victim.Child, tuple[str, str]] = {}
        self.commands: set[str] = set()

    def look(self) -> None:
        """To be called again and again."""
        for child in victim.children(self._conf):
            about = child.read('limits'), child.read('environ')
            if all(about):
                self.seen[child] = about
            self.commands.add(child.command)


def inspect(target: victim.Victim, path: str) -> list[str]:
    """Take a snapshot and look at its children, and for secrets."""
    conf = target.lab.settings
    sampler = _Sampler(conf)
    with repeat.repeated(sampler.look, HOLD_POLL_SECONDS):
        outcome = target.snapshot()
    programs = {child.program for child in sampler.seen}
    problems = [f'no {program} was seen'
                for program in PROGRAMS[path] - programs]
    if outcome.image is None:
        problems.append('the snapshot failed')
    for child, (limits, environment) in sampler.seen.items():
        problems += _unlimited(child, limits)
        names = {line.partition('=')[0]
                 for line in environment.splitlines() if line}
        problems += [f'{child.program} has {name} in its environment'
                     for name in sorted(names - ENVIRONMENT)]
    everything = '\n'.join([
        *sampler.commands, *(about[1] for about in sampler.seen.values()),
        *_command_lines(), _log(conf)])
    return problems + _secrets(target, everything)


def _unlimited(child: victim.Child, limits: str) -> list[str]:
    found = {line[:26].strip(): line[26:].split()[0]
             for line in limits.splitlines()[1:] if line}
    wrong = [name for name in LIMITS if found[name] == UNLIMITED]
    if int(found['Max open files']) > MAX_OPEN_FILES:
        wrong.append('Max open files')
    if found['Max core file size'] != '0':
        wrong.append('Max core file size')
    # Whoever reads headers only has no reason to take its time.
    if re.search('qemu-img (info|create)', child.command) and (
            found['Max cpu time'] == UNLIMITED):
        wrong.append('Max cpu time')
    return [f'{child.program} has no limit: {name}' for name in wrong]


def _command_lines() -> list[str]:
    """Those of every process, whosever it is."""
    return [victim.Child(int(entry), '').read('cmdline')
            for entry in os.listdir('/proc') if entry.isdigit()]


def _log(conf: settings.Settings) -> str:
    """What nova-compute has logged since its start, at debug level."""
    text = conf.log('nova-compute').read_bytes()
    return text.rpartition(b'--- started by the lab ---')[2].decode(
        errors='replace')


def _secrets(target: victim.Victim, text: str) -> list[str]:
    api = target.api
    checks = {'the password': target.lab.settings.password in text,
              "the administrator's token": api.token() in text,
              'a token': TOKEN.search(text) is not None}
    return [f'{words} is in a log, a command line or an environment'
            for words, wrong in checks.items() if wrong]


# Injection

FORGED = 'FORGED: a line of its own in the log'


# What is run somewhere makes it. Short: a name has 255 characters.
MARK = pathlib.Path('/var/tmp/snapdriver-executed')


def injection() -> tuple[str, dict[str, str]]:
    """A name, and properties."""
    command = f'touch {MARK}'
    name = (f'{victim.NAME} $({command}) `{command}` ;{command}; |{command} '
            f'\'"]]></name><x a="&lt;%s%n{{}}ä漢 -f /etc/shadow')
    # Glance and Nova take these as they are; a name has to be printable.
    return name, {
        'x_lines': f'a\r\nX-Injected: yes\r\n\r\n{FORGED}\n{FORGED}',
        'x_shell': f'$({command});`{command}`|{command}\n{command}\n',
        'x_xml': '<!DOCTYPE x [<!ENTITY y SYSTEM "file:///etc/shadow">]>&y;'
                 ']]></metadata>',
        'x_bytes': 'ä漢\u202e\x7f\x01'}


def inject(target: victim.Victim, state: str) -> list[str]:
    """Take a snapshot of a server with such names, under such a name."""
    MARK.unlink(missing_ok=True)
    name, metadata = injection()
    target.enter(state)
    log = measure.Said(target.lab.settings.log('nova-compute'))
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
    """A server whose own name and image are full of it."""
    name, metadata = injection()
    return victim.Victim(lab, folder, disk, {
        'name': name, **{f'base_{key}': value
                         for key, value in metadata.items()}}, name)


@contextlib.contextmanager
def umask_zero() -> collections.abc.Iterator[None]:
    """Whoever is started here has no umask."""
    before = os.umask(0)
    try:
        yield
    finally:
        os.umask(before)

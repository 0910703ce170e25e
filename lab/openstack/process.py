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

"""Run commands to their end, and keep daemons running."""

import collections.abc
import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import pwd
import signal
import socket
import subprocess
import time
import typing

from lab.openstack import settings

POLL_SECONDS = 0.1

Word = str | pathlib.Path


def run(log: pathlib.Path, *argv: Word,
        env: collections.abc.Mapping[str, str] | None = None,
        stdin: str | None = None, timeout: float | None = None) -> None:
    """Run a command and append its output to a log.

    :raises LabError: it failed, or took longer than `timeout` seconds
    """
    command = [str(word) for word in argv]
    everything = {**settings.environment(), **(env or {})}
    with open(log, 'a') as out:
        out.write(f'+ {" ".join(command)}\n')
        out.flush()
        try:
            done = subprocess.run(
                command, stdout=out, stderr=subprocess.STDOUT, text=True,
                input=stdin, env=everything, timeout=timeout)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise settings.LabError(str(error), log) from error
    if done.returncode != 0:
        name = pathlib.Path(command[0]).name
        raise settings.LabError(
            f'{name} ended with status {done.returncode}', log)


def output(*argv: Word, timeout: float | None = 60) -> str:
    """Run a command and return what it prints.

    :raises LabError: it failed, with what it wrote to stderr
    """
    command = [str(word) for word in argv]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout,
            env=settings.environment())
    except (OSError, subprocess.TimeoutExpired) as error:
        raise settings.LabError(str(error)) from error
    if done.returncode != 0:
        raise settings.LabError(f'{" ".join(command)}: {done.stderr.strip()}')
    return done.stdout


def complaint(*argv: Word) -> str:
    """Run a command that checks something.

    :returns: what it reports, stdout and stderr; empty if its status is 0
    """
    done = subprocess.run([str(word) for word in argv], text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          env=settings.environment())
    return '' if done.returncode == 0 else f'{argv[1]}: {done.stdout}'


def start_time(pid: int) -> str | None:
    """Return when a process started, in kernel ticks; None if it is gone.

    Tells a process from a later one with the same pid. A zombie counts as
    gone. Not by psutil: the first daemons start before it is installed.
    """
    try:
        stat = pathlib.Path(f'/proc/{pid}/stat').read_text()
    except OSError:
        return None
    # The second field, the name, may itself contain spaces and brackets.
    fields = stat.rpartition(')')[2].split()
    return None if fields[0] == 'Z' else fields[19]


def becomes(ready: collections.abc.Callable[[], bool], timeout: float,
            poll: float = POLL_SECONDS) -> bool:
    """Wait until `ready`, at most `timeout` seconds; return whether it is."""
    end = time.monotonic() + timeout
    while not ready():
        if time.monotonic() > end:
            return False
        time.sleep(poll)
    return True


def wait_for(what: str, ready: collections.abc.Callable[[], bool],
             timeout: float, log: pathlib.Path | None = None,
             poll: float = POLL_SECONDS) -> None:
    """Wait until `ready`, at most `timeout` seconds.

    :raises LabError: it is not
    """
    if not becomes(ready, timeout, poll):
        raise settings.LabError(
            f'{what} was not ready after {timeout:.0f} s', log)


def listens(port: int) -> bool:
    """Return whether a port of loopback accepts connections."""
    try:
        socket.create_connection((settings.ADDRESS, port), 2).close()
    except OSError:
        return False
    return True


def accepts(path: pathlib.Path) -> bool:
    """Return whether a unix socket accepts connections."""
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0


@dataclasses.dataclass(frozen=True)
class Record:
    """A pid file: the process, when it started, and its fingerprint."""

    pid: int
    started: str
    fingerprint: str

    @property
    def alive(self) -> bool:
        return start_time(self.pid) == self.started


class Daemon:
    """A service that outlives the command that starts it.

    It runs in the foreground of a session of its own, so that its process
    group holds all of it.
    """

    #: Seconds to come up, and to go down after SIGTERM.
    start_timeout = 90.0
    stop_timeout = 20.0
    #: The account that it runs as; root if None.
    user: str | None = None

    name = ''

    def __init__(self, conf: settings.Settings, name: str = '') -> None:
        self.settings = conf
        self.name = name or self.name
        self.log = conf.log(self.name)
        self._pid_file = conf.state / f'{self.name}.pid'

    @property
    def port(self) -> int:
        """Return its TCP port."""
        return int(getattr(self.settings.ports, self.name))

    def argv(self) -> list[str]:
        """Return the command."""
        raise NotImplementedError

    def env(self) -> dict[str, str]:
        """Return additions to the environment."""
        return {}

    def sources(self) -> list[pathlib.Path]:
        """Return the configuration files: a change restarts the daemon."""
        return []

    def prepare(self) -> None:
        """Create what it needs before it starts."""

    def ready(self) -> bool:
        """Return whether it answers; by default, on its port."""
        return listens(self.port)

    def record(self) -> Record | None:
        """Return the running process, if the lab has started one."""
        try:
            found = Record(**json.loads(self._pid_file.read_text()))
        except (OSError, ValueError, TypeError):
            return None
        return found if found.alive else None

    def ensure(self) -> str:
        """Have it running with its present configuration.

        :returns: `runs` if it ran already
        """
        record = self.record()
        if record is not None:
            if record.fingerprint == self.fingerprint() and self.ready():
                return 'runs'
            self.stop()
        self.start()
        return ''

    def start(self) -> None:
        """Start it and wait until it is ready.

        :raises LabError: it ended, or was not ready in time
        """
        self.prepare()
        with open(self.log, 'a') as out:
            child = subprocess.Popen(
                self.argv(), stdin=subprocess.DEVNULL, stdout=out,
                stderr=subprocess.STDOUT, start_new_session=True,
                env={**settings.environment(), **self.env()}, cwd='/',
                **_identity(self.user))
        started = start_time(child.pid) or 'gone'
        record = Record(child.pid, started, self.fingerprint())
        self._pid_file.write_text(json.dumps(dataclasses.asdict(record)))
        wait_for(self.name, lambda: self._up(child), self.start_timeout,
                 self.log)

    def _up(self, child: subprocess.Popen[bytes]) -> bool:
        if child.poll() is not None:
            raise settings.LabError(
                f'{self.name} ended with status {child.returncode}',
                self.log)
        return self.ready()

    def fingerprint(self) -> str:
        """Return a hash of command, environment and configuration."""
        known = hashlib.sha256(
            repr((self.argv(), sorted(self.env().items()))).encode())
        for path in self.sources():
            known.update(path.read_bytes())
        return known.hexdigest()

    def stop(self) -> None:
        """Terminate it, wait, then kill it."""
        self._end(signal.SIGTERM)
        self.kill()
        self._pid_file.unlink(missing_ok=True)

    def kill(self) -> None:
        """Kill it, with all of its process group."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        record = self.record()
        if record is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(record.pid, number)
        becomes(lambda: _gone(record), self.stop_timeout)


def _gone(record: Record) -> bool:
    """Return whether a process has ended; reap it if it is a child."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(record.pid, os.WNOHANG)
    return not record.alive


def _identity(user: str | None) -> dict[str, typing.Any]:
    """Return Popen's arguments that switch to a user and its groups."""
    if user is None:
        return {}
    group = pwd.getpwnam(user).pw_gid
    return {'user': user, 'group': group,
            'extra_groups': os.getgrouplist(user, group)}

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

"""Processes: commands that end, and daemons that stay."""

import collections.abc
import dataclasses
import hashlib
import json
import os
import pathlib
import pwd
import signal
import subprocess
import time
import typing

from lab.openstack import settings

POLL_SECONDS = 0.1


def run(log: pathlib.Path, *argv: str | pathlib.Path,
        env: collections.abc.Mapping[str, str] | None = None,
        stdin: str | None = None, timeout: float | None = None) -> None:
    """Run a command to its end, its output appended to `log`.

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


def output(*argv: str, timeout: float | None = 60) -> str:
    """What a command prints; its errors are in the exception.

    :raises LabError: it failed, with its last line of errors
    """
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=timeout,
            env=settings.environment())
    except (OSError, subprocess.TimeoutExpired) as error:
        raise settings.LabError(str(error)) from error
    if done.returncode != 0:
        raise settings.LabError(f'{" ".join(argv)}: {done.stderr.strip()}')
    return done.stdout


def start_time(pid: int) -> str | None:
    """When a process started, in the kernel's ticks; None if it is gone.

    With this a pid that was given to another process is not taken for
    ours. A zombie is gone, too: it only waits for its parent.
    """
    try:
        stat = pathlib.Path(f'/proc/{pid}/stat').read_text()
    except OSError:
        return None
    # The second field, the name, may itself contain spaces and brackets.
    fields = stat.rpartition(')')[2].split()
    return None if fields[0] == 'Z' else fields[19]


def wait_for(what: str, ready: collections.abc.Callable[[], bool],
             timeout: float, log: pathlib.Path | None = None,
             poll: float = POLL_SECONDS) -> None:
    """Wait until `ready` says so, at most `timeout` seconds.

    :raises LabError: it did not
    """
    end = time.monotonic() + timeout
    while not ready():
        if time.monotonic() > end:
            raise settings.LabError(
                f'{what} was not ready after {timeout:.0f} s', log)
        time.sleep(poll)


@dataclasses.dataclass(frozen=True)
class Record:
    """What a pid file holds: whom we started, and from what."""

    pid: int
    started: str
    fingerprint: str

    @property
    def alive(self) -> bool:
        return start_time(self.pid) == self.started


class Daemon:
    """A service that outlives the command that starts it.

    Subclasses say what to run and when it is ready. It runs in the
    foreground of a session of its own, so its process group is all of it.
    """

    #: Seconds that it may take to come up, and to go down when asked.
    start_timeout = 90.0
    stop_timeout = 20.0
    #: Whom it runs as, which the lab's root becomes.
    user: str | None = None

    def __init__(self, conf: settings.Settings, name: str) -> None:
        self.settings = conf
        self.name = name
        self.log = conf.log(name)
        self._pid_file = conf.state / f'{name}.pid'

    def argv(self) -> list[str]:
        """The command."""
        raise NotImplementedError

    def env(self) -> dict[str, str]:
        """What is added to the environment."""
        return {}

    def sources(self) -> list[pathlib.Path]:
        """Files whose change means that it must be started again."""
        return []

    def prepare(self) -> None:
        """What must be there before it starts."""

    def ready(self) -> bool:
        """Whether it answers."""
        raise NotImplementedError

    def record(self) -> Record | None:
        """Whom we started, if it still runs."""
        try:
            found = Record(**json.loads(self._pid_file.read_text()))
        except (OSError, ValueError, TypeError):
            return None
        return found if found.alive else None

    def ensure(self) -> str:
        """Have it up with its present configuration; say what was done."""
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
        """Tells one command, environment and configuration from another."""
        known = hashlib.sha256(
            repr((self.argv(), sorted(self.env().items()))).encode())
        for path in self.sources():
            known.update(path.read_bytes())
        return known.hexdigest()

    def stop(self) -> None:
        """End it: ask, wait, then kill."""
        record = self.record()
        if record is not None:
            _signal_group(record, signal.SIGTERM)
            self._wait_gone(record, self.stop_timeout)
            self.kill()
        self._pid_file.unlink(missing_ok=True)

    def kill(self) -> None:
        """End it without asking."""
        record = self.record()
        if record is not None:
            _signal_group(record, signal.SIGKILL)
            self._wait_gone(record, self.stop_timeout)

    @staticmethod
    def _wait_gone(record: Record, timeout: float) -> None:
        end = time.monotonic() + timeout
        while record.alive and time.monotonic() < end:
            _reap(record.pid)
            time.sleep(POLL_SECONDS)
        _reap(record.pid)


def _identity(user: str | None) -> dict[str, typing.Any]:
    """What Popen is told to become a user, with all of its groups."""
    if user is None:
        return {}
    group = pwd.getpwnam(user).pw_gid
    return {'user': user, 'group': group,
            'extra_groups': os.getgrouplist(user, group)}


def _signal_group(record: Record, number: signal.Signals) -> None:
    """Signal the session that the record's process leads."""
    try:
        os.killpg(record.pid, number)
    except ProcessLookupError:
        pass


def _reap(pid: int) -> None:
    """Let a child of ours that has ended go; others' are none of ours."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        pass

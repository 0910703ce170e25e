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

"""Watches one snapshot: how long the guest stood, what lay on the disk."""

import collections.abc
import datetime
import pathlib
import re
import subprocess
import threading
import types

from lab.observe import measure
from lab.openstack import domain
from lab.openstack import settings

EVENT = re.compile(r"(\S+ \S+): event 'lifecycle' for domain '?([^':]+)'?:"
                   r' (\w+)')
DOWN = ('Suspended', 'Stopped', 'Shutdown')
UP = ('Resumed',)
STOP_SECONDS = 10.0


class Watch:
    """Samples a directory, and reads libvirt's events of a domain."""

    def __init__(self, name: str, folder: pathlib.Path) -> None:
        self._name = name
        self._folder = folder
        self._before = measure.allocated(folder)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._events = ''
        self.staging_peak = 0

    def __enter__(self) -> 'Watch':
        # Without a line buffer the events would come when it is too late.
        self._child = subprocess.Popen(
            ['stdbuf', '-oL', *domain.VIRSH, 'event', '--all', '--loop',
             '--timestamp'], stdin=subprocess.DEVNULL, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env=settings.environment())
        self._thread.start()
        # Until virsh is connected, events are missed.
        self._stopping.wait(0.5)
        return self

    def __exit__(self, kind: type[BaseException] | None,
                 error: BaseException | None,
                 trace: types.TracebackType | None) -> None:
        self._stopping.set()
        self._thread.join()
        self._child.terminate()
        try:
            self._events, _ = self._child.communicate(timeout=STOP_SECONDS)
        finally:
            self._child.kill()

    def _sample(self) -> None:
        while not self._stopping.wait(measure.SAMPLE_SECONDS):
            used = measure.allocated(self._folder) - self._before
            self.staging_peak = max(self.staging_peak, used)

    def stopped_seconds(self) -> float:
        """How long the guest's CPUs stood in all, in seconds.

        :raises LabError: they did not go on again
        """
        total, down = 0.0, None
        for when, what in self._lifecycle():
            if what in DOWN:
                down = down or when
            elif what in UP and down:
                total += (when - down).total_seconds()
                down = None
        if down:
            raise settings.LabError(f'{self._name} was left standing')
        return round(total, 3)

    def _lifecycle(self) -> collections.abc.Iterator[
            tuple[datetime.datetime, str]]:
        for line in self._events.splitlines():
            match = EVENT.match(line)
            if match and match[2] == self._name:
                yield datetime.datetime.fromisoformat(match[1]), match[3]

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

"""Watch one snapshot: how long the guest stands, what is on the disk."""

import collections.abc
import contextlib
import datetime
import pathlib
import re
import subprocess
import time
from typing import Self

from lab.observe import measure
from lab.observe import repeat
from lab.openstack import domain
from lab.openstack import settings

EVENT = re.compile(r"(\S+ \S+): event 'lifecycle' for domain '?([^':]+)'?:"
                   r' (\w+)')
DOWN = ('Suspended', 'Stopped', 'Shutdown')
UP = ('Resumed',)
CONNECT_SECONDS = 0.5
STOP_SECONDS = 10.0


class Watch(contextlib.ExitStack):
    """Samples a directory, and reads libvirt's events of a domain."""

    def __init__(self, name: str, folder: pathlib.Path) -> None:
        super().__init__()
        self._name = name
        self._events = ''
        self._staged = measure.Staged(folder)

    @property
    def staging_peak(self) -> int:
        return self._staged.peak

    def __enter__(self) -> Self:
        # With its default buffer, virsh would print events too late.
        child = subprocess.Popen(
            ['stdbuf', '-oL', *domain.VIRSH, 'event', '--all', '--loop',
             '--timestamp'], stdin=subprocess.DEVNULL, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env=settings.environment())
        self.callback(self._end, child)
        self.enter_context(repeat.repeated(self._staged.look,
                                           measure.SAMPLE_SECONDS))
        # Until virsh is connected, events are lost.
        time.sleep(CONNECT_SECONDS)
        return self

    def _end(self, child: 'subprocess.Popen[str]') -> None:
        child.terminate()
        try:
            self._events, _ = child.communicate(timeout=STOP_SECONDS)
        finally:
            child.kill()

    def stopped_seconds(self) -> float:
        """Return for how many seconds the guest's CPUs stood, in all.

        :raises LabError: they still do
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

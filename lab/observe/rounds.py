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

"""Follow the rounds that a guest writes, and miss none."""

import pathlib
import time

from lab.observe import inspect
from lab.observe import measure
from lab.openstack import process

# A guest whose console is followed has written something newer.
FRESH_SECONDS = 0.5


class Rounds:
    """The numbers of the rounds that a server's guest has written."""

    def __init__(self, server: measure.Server) -> None:
        self.server = server
        self._console = measure.Console(server.console, from_end=True)
        self.begin()

    def begin(self) -> None:
        """Expect each number from now on."""
        self._console.lines()
        beat = self._console.wait(measure.BEAT, measure.BOOT_TIMEOUT)
        self._numbers = [int(beat[1])]

    @property
    def first(self) -> int:
        return self._numbers[0]

    @property
    def last(self) -> int:
        return self._numbers[-1]

    def problems(self, booted: bool = False) -> list[str]:
        """Check that the guest writes on, and has left out no round.

        :param booted: whether it may have booted since
        """
        fresh = time.monotonic() + FRESH_SECONDS
        if not process.becomes(
                lambda: self._read() and time.monotonic() > fresh,
                measure.BOOT_TIMEOUT if booted else measure.BEAT_TIMEOUT,
                measure.SAMPLE_SECONDS):
            return [f'{self.server.name} does not write']
        expected = list(range(self.first, self.first + len(self._numbers)))
        if not booted and self._numbers != expected:
            return [f'the rounds of {self.server.name} have a gap']
        return []

    def _read(self) -> bool:
        new = [int(match[1]) for line in self._console.lines()
               if (match := measure.BEAT.match(line))]
        self._numbers += new
        return bool(new)

    def image_problem(self, path: pathlib.Path, disk_format: str,
                      folder: pathlib.Path, replay: bool) -> str:
        """Check an image taken since: whole, and with one of the rounds.

        :param folder: for temporary files
        :param replay: replay the file system's journal: it was not frozen
        :returns: what is wrong, if anything
        """
        held, wrong = inspect.image(path, disk_format, folder, replay)
        if not wrong and not self.first <= held <= self.last:
            return f'it holds round {held}, not {self.first} to {self.last}'
        return wrong

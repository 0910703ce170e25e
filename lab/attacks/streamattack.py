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

"""Run the stream process against an NBD server that lies."""

import dataclasses
import json
import os
import pathlib
import select
import subprocess
import tempfile
import time
import typing

from lab.attacks import liar
from lab.observe import processes
from lab.openstack import settings

# The promise: under 128 MiB, whatever the disk. A lie may cost what libnbd and
# Python take for the largest answer that libnbd accepts, 64 MiB, besides; the
# limit of the process is on its address space.
PEAK_BYTES = 128 << 20
LIE_PEAK_BYTES = 1 << 30
# For an answer with data; for one with a map it is twelve times as long.
PATIENCE_SECONDS = 2.0
SECONDS_LIMIT = 60.0
READ_BYTES = 1 << 20
POLL_SECONDS = 0.02
CHECKOUT = pathlib.Path(__file__).resolve().parents[2]

MILLION = liar.Lie(size=1_000_000 * 4096, status=liar.alternating(4096))


@dataclasses.dataclass(frozen=True)
class Result:
    """What a stream process did."""

    status: int
    seconds: float
    peak_bytes: int
    length: int
    messages: str

    def events(self) -> list[dict[str, typing.Any]]:
        """Parse its messages.

        :raises ValueError: it printed something else
        """
        return [json.loads(text) for text in self.messages.splitlines()]

    def problems(self, truth: liar.Lie | None = None) -> list[str]:
        """Return what does not hold.

        :param truth: what the server has served, if it was no lie
        """
        try:
            names = [event['event'] for event in self.events()
                     if event['event'] != 'alive']
        except ValueError:
            return [f'it said: {self.messages[-500:]}']
        checks = self._lied(names) if truth is None else {
            f'it failed: {self.messages}': names != ['layout', 'done'],
            f'it gave {self.length} bytes': self.length != truth.size,
            f'it took {self.peak_bytes >> 20} MiB':
                self.peak_bytes > PEAK_BYTES}
        return [words for words, wrong in checks.items() if wrong]

    def _lied(self, names: list[str]) -> dict[str, bool]:
        return {
            'it ended well': self.status == 0 or 'done' in names,
            'it was killed': self.status not in (0, 1),
            f'its events are {names}': names.count('error') != 1 or
            names[-1] != 'error',
            f'it took {self.seconds:.0f} s': self.seconds > SECONDS_LIMIT,
            'it took too much memory': self.peak_bytes > LIE_PEAK_BYTES}


def attempt(lie: liar.Lie, folder: pathlib.Path, python: str,
            image_format: str = 'raw',
            patience: float = PATIENCE_SECONDS) -> Result:
    """Stream from a lying server, to nowhere.

    :param patience: seconds that the process waits for an answer
    """
    with tempfile.TemporaryDirectory(dir=folder) as area:
        path = pathlib.Path(area, 'nbd')
        with liar.Server(lie, path):
            return _stream([
                python, '-P', '-m', 'nova_snapdriver.stream', '--socket',
                str(path), '--format', image_format, '--stall-timeout',
                str(patience)])


def _stream(command: list[str]) -> Result:
    began = time.monotonic()
    with tempfile.TemporaryFile() as messages:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=messages, env={**settings.environment(),
                                  'PYTHONPATH': str(CHECKOUT)})
        try:
            length, peak = _consume(child, began + 4 * SECONDS_LIMIT)
        finally:
            child.kill()
            status = child.wait()
        seconds = round(time.monotonic() - began, 2)
        messages.seek(0)
        return Result(status, seconds, peak, length,
                      messages.read().decode(errors='replace'))


def _consume(child: 'subprocess.Popen[bytes]',
             end: float) -> tuple[int, int]:
    """Read to the end; return the bytes read, and the peak of memory."""
    assert child.stdout is not None
    pipe, length, peak = child.stdout.fileno(), 0, 0
    while time.monotonic() < end:
        peak = max(peak, processes.memory_peak(child.pid))
        if select.select([pipe], [], [], POLL_SECONDS)[0]:
            content = os.read(pipe, READ_BYTES)
            length += len(content)
            if not content:
                child.wait()
                break
    return length, peak

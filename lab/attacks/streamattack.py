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
"""The stream process, against a server that lies."""

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
from lab.openstack import settings

# What is promised: under 128 MiB, whatever the disk. What libnbd and Python
# take for one answer of 64 MiB, the most that libnbd takes, comes on top; the
# limit of the process itself is on its address space.
PEAK_BYTES = 128 << 20
LIE_PEAK_BYTES = 1 << 30
PATIENCE_SECONDS = 2.0
# Of a map, it is twelve times as many.
SECONDS_LIMIT = 60.0
READ_BYTES = 1 << 20
POLL_SECONDS = 0.02

MILLION = liar.Lie(size=1_000_000 * 4096, status=liar.alternating(4096))


@dataclasses.dataclass(frozen=True)
class Result:
    """What became of a stream."""

    status: int
    seconds: float
    peak_bytes: int
    length: int
    messages: str

    def events(self) -> list[dict[str, typing.Any]]:
        """:raises ValueError: it said something that is no event"""
        return [json.loads(text) for text in self.messages.splitlines()]

    def problems(self, truth: liar.Lie | None = None) -> list[str]:
        """What does not hold; without `truth`, of a lie."""
        try:
            names = [event['event'] for event in self.events()]
        except ValueError:
            return [f'it said: {self.messages[-500:]}']
        if truth is not None:
            return self._incomplete(names, truth)
        checks = {
            'it ended well': self.status == 0 or 'done' in names,
            'it was killed': self.status not in (0, 1),
            f'its events are {names}': names.count('error') != 1 or
            names[-1] != 'error',
            f'it took {self.seconds:.0f} s': self.seconds > SECONDS_LIMIT,
            'it took too much memory': self.peak_bytes > LIE_PEAK_BYTES}
        return [words for words, wrong in checks.items() if wrong]

    def _incomplete(self, names: list[str], truth: liar.Lie) -> list[str]:
        checks = {
            f'it failed: {self.messages}': names != ['layout', 'done'],
            f'it gave {self.length} bytes': self.length != truth.size,
            f'it took {self.peak_bytes >> 20} MiB':
                self.peak_bytes > PEAK_BYTES}
        return [words for words, wrong in checks.items() if wrong]


def attempt(lie: liar.Lie, folder: pathlib.Path, python: str,
            image_format: str = 'raw',
            patience: float = PATIENCE_SECONDS) -> Result:
    """Stream what the server tells, into nothing.

    :param patience: seconds that the process gives the server for an answer
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
    checkout = pathlib.Path(__file__).resolve().parents[2]
    with tempfile.TemporaryFile() as messages:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=messages, env={**settings.environment(),
                                  'PYTHONPATH': str(checkout)})
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
    """Read to the end; bytes read, and bytes resident at the most."""
    assert child.stdout is not None
    pipe, length, peak = child.stdout.fileno(), 0, 0
    while time.monotonic() < end:
        peak = max(peak, _resident(child.pid))
        if select.select([pipe], [], [], POLL_SECONDS)[0]:
            content = os.read(pipe, READ_BYTES)
            length += len(content)
            if not content:
                child.wait()
                break
    return length, peak


def _resident(pid: int) -> int:
    """By the kernel's count of the process's own life."""
    try:
        text = pathlib.Path(f'/proc/{pid}/status').read_text()
    except OSError:
        return 0
    found = [line.split()[1] for line in text.splitlines()
             if line.startswith('VmHWM')]
    return int(found[0]) * 1024 if found else 0

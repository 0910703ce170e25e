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

"""Run the unit, functional and end-to-end tests."""

import argparse
import collections
import datetime
import os
import pathlib
import re
import subprocess
import sys
import time

from lab.openstack import settings
from lab.openstack import stack

# The first are run by several processes; guests and the lab are there once.
PARALLEL = ('tests/unit',)
SERIAL = ('tests/nova', 'tests/functional', 'tests/e2e')
NO_TESTS = 5                            # pytest's status if none was selected
# As in pytest's closing line.
COUNT = re.compile(r'(\d+) (passed|failed|skipped|deselected|xfailed|xpassed|'
                   r'warnings?|errors?)\b')
OUTCOMES = ('failed', 'passed', 'skipped', 'deselected', 'xfailed', 'xpassed',
            'warning', 'error')
PIECE_BYTES = 4096


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--quick', action='store_true', help='unit tests, and'
                        ' each path once: a verdict in five minutes')
    parser.add_argument('pytest', nargs='*', help="pytest's own, after --;"
                        ' files or folders instead of all tests')


def run(lab: stack.Stack, args: argparse.Namespace) -> int:
    """Run pytest as often as needed; print one closing line for all."""
    began = time.monotonic()
    counts: collections.Counter[str] = collections.Counter()
    statuses = [_pytest(lab, words, counts)
                for words in runs(lab.settings.checkout, args)]
    print(closing_line(counts, time.monotonic() - began), flush=True)
    return verdict(statuses)


def runs(checkout: pathlib.Path, args: argparse.Namespace) -> list[list[str]]:
    """Return the arguments of each run of pytest."""
    if any((checkout / word.split('::')[0]).exists()
           for word in args.pytest if not word.startswith('-')):
        return [args.pytest]
    quick = ['-m', 'quick'] if args.quick else []
    return [[*PARALLEL, '-n', str(os.cpu_count()), *args.pytest],
            [*SERIAL, *quick, *args.pytest]]


def _pytest(lab: stack.Stack, words: list[str],
            counts: collections.Counter[str]) -> int:
    """Run pytest, show its output, and add up its closing line."""
    path = f'{lab.settings.venv}/bin:{os.environ["PATH"]}'
    child = subprocess.Popen(
        [lab.settings.bin('python'), '-m', 'pytest', '-ra', '-q',
         '--durations=15', *words], cwd=lab.settings.checkout,
        env={**settings.environment(), 'PATH': path}, stdout=subprocess.PIPE)
    assert child.stdout is not None
    last = b''
    while piece := os.read(child.stdout.fileno(), PIECE_BYTES):
        sys.stdout.buffer.write(piece)
        sys.stdout.flush()
        last = (last + piece)[-PIECE_BYTES:]
    counts.update(outcomes(last.decode(errors='replace')))
    return child.wait()


def outcomes(text: str) -> dict[str, int]:
    """Return the numbers in the closing line of pytest's output."""
    lines = text.rstrip().splitlines()
    return {name.removesuffix('s'): int(number)
            for number, name in COUNT.findall(lines[-1] if lines else '')}


def closing_line(counts: collections.Counter[str], seconds: float) -> str:
    """Format the sum as pytest does."""
    def words(name: str) -> str:
        plural = counts[name] != 1 and name in ('warning', 'error')
        return f'{counts[name]} {name}{"s" if plural else ""}'

    told = ', '.join(words(name) for name in OUTCOMES if counts[name])
    took = datetime.timedelta(seconds=int(seconds))
    return f'{told or "no tests ran"} in {seconds:.2f}s ({took})'


def verdict(statuses: list[int]) -> int:
    """Return the worst status; one run without tests is fine."""
    ran = [status for status in statuses if status != NO_TESTS]
    return max(map(abs, ran)) if ran else NO_TESTS

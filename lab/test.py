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


"""Unit, functional and end-to-end tests, side by side where they can be."""

import argparse
import collections
import dataclasses
import datetime
import os
import pathlib
import re
import subprocess
import time

from lab import matrix
from lab.openstack import settings
from lab.openstack import stack

NO_TESTS = 5                            # pytest's status if none was selected
# As in pytest's closing line.
COUNT = re.compile(r'(\d+) (passed|failed|skipped|deselected|xfailed|xpassed|'
                   r'warnings?|errors?)\b')
OUTCOMES = ('failed', 'passed', 'skipped', 'deselected', 'xfailed', 'xpassed',
            'warning', 'error')
# Between two words on how far all are.
TELL_SECONDS = 60
POLL_SECONDS = 0.5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--quick', action='store_true', help='unit tests, and'
                        ' each path once: a verdict in five minutes')
    parser.add_argument('--matrix', action='store_true',
                        help='other releases of Nova, too')
    parser.add_argument('pytest', nargs='*', help="pytest's own, after --;"
                        ' files or folders instead of all tests')


@dataclasses.dataclass
class Run:
    """One run of pytest, or of tox with several, and its output."""

    name: str
    argv: list[str]
    log: pathlib.Path
    process: 'subprocess.Popen[bytes] | None' = None

    def start(self, conf: settings.Settings) -> None:
        path = f'{conf.venv}/bin:{os.environ["PATH"]}'
        with open(self.log, 'wb') as output:
            self.process = subprocess.Popen(
                self.argv, cwd=conf.checkout, stdout=output,
                stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                env={**settings.environment(), 'PATH': path})

    @property
    def ended(self) -> bool:
        assert self.process is not None
        return self.process.poll() is not None

    @property
    def status(self) -> int:
        assert self.process is not None
        return self.process.wait()

    def text(self) -> str:
        return self.log.read_text(errors='replace')

    def progress(self) -> str:
        """Return how far it is, by its last line."""
        percents = re.findall(r'\[ *(\d+%)\]', self.text())
        return f'{self.name} {percents[-1] if percents else "begins"}'


def run(lab: stack.Stack, args: argparse.Namespace) -> int:
    """Run all tests; print one closing line for all."""
    began = time.monotonic()
    counts: collections.Counter[str] = collections.Counter()
    statuses = []
    for together in runs(lab.settings, args):
        statuses += _side_by_side(lab.settings, together, counts)
    print(closing_line(counts, time.monotonic() - began), flush=True)
    return verdict(statuses)


def runs(conf: settings.Settings,
         args: argparse.Namespace) -> list[list[Run]]:
    """Return what is run side by side, one after the other.

    Functional tests have domains, a Ceph and a libvirtd to kill of their own,
    and wait as much as they work, as those of the whole OpenStack do.
    """
    def pytest(name: str, *words: str) -> Run:
        return Run(name, [conf.bin('python'), '-m', 'pytest', '-ra', '-q',
                          '--durations=15', *words, *args.pytest],
                   conf.log(f'test-{name}'))

    if any((conf.checkout / word.split('::')[0]).exists()
           for word in args.pytest if not word.startswith('-')):
        return [[pytest('chosen')]]
    quick = ['-m', 'quick'] if args.quick else []
    cores = str(os.cpu_count())
    together = [
        pytest('functional', 'tests/nova', 'tests/functional', *quick, '-n',
               cores, '--dist', 'loadfile'),
        pytest('e2e', 'tests/e2e', *quick)]
    if args.matrix:
        together.append(Run('matrix', matrix.command(conf),
                            conf.log('test-matrix')))
    return [[pytest('unit', 'tests/unit', '-n', cores)], together]


def _side_by_side(conf: settings.Settings, together: list[Run],
                  counts: collections.Counter[str]) -> list[int]:
    """Run some at a time; print each whole once it has ended."""
    for one in together:
        one.start(conf)
    left, told = list(together), time.monotonic()
    while left:
        time.sleep(POLL_SECONDS)
        for one in [one for one in left if one.ended]:
            left.remove(one)
            print(f'===== {one.name}\n{one.text()}', flush=True)
            counts.update(outcomes(one.text()))
        if left and time.monotonic() - told > TELL_SECONDS:
            told = time.monotonic()
            print('; '.join(one.progress() for one in left), flush=True)
    return [one.status for one in together]


def outcomes(text: str) -> collections.Counter[str]:
    """Return the sum of the closing lines in pytest's output."""
    found: collections.Counter[str] = collections.Counter()
    for line in re.findall(r'^.*\d (?:passed|failed|errors?|skipped)\b.* in '
                           r'[\d.]+s.*$', text, re.MULTILINE):
        found.update({name.removesuffix('s'): int(number)
                      for number, name in COUNT.findall(line)})
    return found


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

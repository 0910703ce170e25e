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

"""The lab's command line; `lab/run --help` names what it can do."""

import argparse
import collections.abc
import os
import pathlib
import subprocess
import sys
import typing

from lab.attacks import command as attacks
from lab.bench import demo
from lab.bench import pressure
from lab.bench import runner as bench
from lab.bench import stopped
from lab.faults import command as faults
from lab.faults import soak
from lab import matrix
from lab.openstack import config
from lab.openstack import settings
from lab.openstack import stack
from lab.paths import table as paths

Result = typing.TypeVar('Result')
_Action = collections.abc.Callable[[stack.Stack, argparse.Namespace], Result]

LOG_LINES = 15
LINE_LENGTH = 200


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='lab/run', description='A real OpenStack on this machine, in'
        f' {settings.DEFAULT_ROOT} or $SNAPDRIVER_LAB.')
    commands = parser.add_subparsers(dest='command', required=True)
    commands.add_parser('up', help='install and start what is missing')
    show = commands.add_parser(
        'demo', help='snapshots by our driver and by the stock one')
    show.add_argument('--json', metavar='FILE', type=pathlib.Path,
                      help='write the figures there, too')
    table = commands.add_parser(
        'paths', help='a snapshot by each path, of each disk, in each state')
    table.add_argument('--json', metavar='FILE', type=pathlib.Path,
                       help='write the rows there, too')
    table.add_argument('--only', metavar='WORDS', action='append',
                       default=[], help='the rows with this in their names')
    attack = commands.add_parser(
        'attacks', help='what a hostile guest or user tries, for real')
    attack.add_argument('--json', metavar='FILE', type=pathlib.Path,
                        help='write the rows there, too')
    attack.add_argument('--only', metavar='NAME', action='append',
                        default=[], help='the rows with this in their names')
    attack.add_argument('--seed', metavar='N', type=int,
                        help='of all that is random')
    down = commands.add_parser(
        'stopped', help='how long a server is down for a cold snapshot')
    down.add_argument('--json', metavar='FILE', type=pathlib.Path,
                      help='write the figures there, too')
    bench.add_arguments(commands.add_parser(
        'bench', help='how quick each way is, and what it costs'))
    faults.add_arguments(commands.add_parser(
        'faults', help='let everything go wrong, and see what is left'))
    soak.add_arguments(commands.add_parser(
        'soak', help='random snapshots, faults and actions, and what grows'))
    slow = commands.add_parser(
        'pressure', help='a guest that overwrites much, and a slow Glance')
    slow.add_argument('--json', metavar='FILE', type=pathlib.Path,
                      help='write the rows there, too')
    test = commands.add_parser('test', help='unit, functional, e2e tests')
    test.add_argument('pytest', nargs='*', help="pytest's, after --")
    commands.add_parser('matrix', help='tests on other releases of Nova')
    commands.add_parser('down', help='stop and remove all of the lab')
    commands.add_parser(
        'env', help='print what the openstack command needs')
    driver = commands.add_parser(
        'driver', help='start nova-compute with a driver')
    driver.add_argument('name', choices=sorted(config.DRIVERS))
    driver.add_argument('--mode', choices=config.MODES,
                        default=config.MODES[0])
    driver.add_argument('--user', choices=config.USERS,
                        default=config.ROOT, help='whom it runs as')
    driver.add_argument(
        '--set', metavar='GROUP.OPTION=VALUE', type=config.option,
        action='append', default=[], help='an option of nova.conf')
    return parser


def _from_caller(target: pathlib.Path | None) -> pathlib.Path | None:
    """A file named on the command line: the script changed the directory."""
    if target is None:
        return None
    return pathlib.Path(
        os.environ.get('SNAPDRIVER_CALLER_DIR', '.')) / target


def _test(lab: stack.Stack, options: list[str]) -> int:
    """One run of pytest; its closing line is the last that is printed."""
    folders = ['tests/unit', 'tests/nova', 'tests/functional', 'tests/e2e']
    words = [lab.settings.bin('python'), '-m', 'pytest', '-ra', '-q',
             '--durations=15', *folders, *options]
    path = f'{lab.settings.venv}/bin:{os.environ["PATH"]}'
    return subprocess.run(
        words, cwd=lab.settings.checkout,
        env={**settings.environment(), 'PATH': path}).returncode


def _env(lab: stack.Stack) -> None:
    for name, value in lab.cloud.environment.items():
        print(f'export {name}={value}')
    print(f'export PATH={lab.settings.venv}/bin:$PATH')


def _driver(lab: stack.Stack, arguments: argparse.Namespace) -> None:
    lab.compute(config.Compute(arguments.name, arguments.mode,
                               tuple(arguments.set), arguments.user))


# What is done on a lab that is up; it gives the exit status.
_ON_LAB: dict[str, _Action[int]] = {
    'up': lambda lab, arguments: 0,
    'demo': lambda lab, arguments: demo.run(
        lab, _from_caller(arguments.json)),
    'paths': lambda lab, arguments: paths.run(
        lab, _from_caller(arguments.json), arguments.only),
    'stopped': lambda lab, arguments: stopped.run(
        lab, _from_caller(arguments.json)),
    'bench': lambda lab, arguments: bench.run(lab, arguments, _from_caller),
    'faults': lambda lab, arguments: faults.run(lab, arguments, _from_caller),
    'soak': lambda lab, arguments: soak.run(
        lab, _from_caller(arguments.json), arguments.minutes,
        arguments.seed),
    'attacks': lambda lab, arguments: attacks.run(
        lab, _from_caller(arguments.json), arguments.only, arguments.seed),
    'pressure': lambda lab, arguments: pressure.run(
        lab, _from_caller(arguments.json)),
    'matrix': lambda lab, arguments: matrix.run(lab.settings),
    'test': lambda lab, arguments: _test(lab, arguments.pytest),
}
_OTHERS: dict[str, _Action[None]] = {
    'driver': _driver,
    'env': lambda lab, arguments: _env(lab),
    'down': lambda lab, arguments: lab.down(),
}


def _run(arguments: argparse.Namespace) -> int:
    lab = stack.Stack(settings.load())
    if arguments.command in _ON_LAB:
        lab.up()
        return _ON_LAB[arguments.command](lab, arguments)
    _OTHERS[arguments.command](lab, arguments)
    return 0


def _explain(error: settings.LabError) -> None:
    """One line on what failed, and the end of the log that tells more."""
    where = ': '.join([*getattr(error, '__notes__', []), str(error)])
    log = error.log
    print(f'lab: {where}' + (f'; see {log}' if log else ''),
          file=sys.stderr)
    if log is not None and log.exists():
        lines = log.read_text(errors='replace').splitlines()
        told = [line for line in lines if ' DEBUG ' not in line]
        for line in told[-LOG_LINES:]:
            print(f'  | {line[:LINE_LENGTH]}', file=sys.stderr)


def main() -> int:
    arguments = _parser().parse_args()
    if os.geteuid() != 0:
        print('lab: this must run as root; try sudo', file=sys.stderr)
        return 1
    try:
        return _run(arguments)
    except settings.LabError as error:
        _explain(error)
    except KeyboardInterrupt:
        print('lab: interrupted', file=sys.stderr)
    return 1


if __name__ == '__main__':
    sys.exit(main())

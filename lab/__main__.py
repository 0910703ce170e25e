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

"""The lab's command line; `lab/run --help` lists the subcommands.

It begins on the system's Python, with the standard library alone, and goes on
in the lab's virtual environment once that is there.
"""

import argparse
import os
import sys

from lab.attacks import attacks
from lab.bench import bench
from lab.bench import demo
from lab.bench import pressure
from lab.bench import stopped
from lab import command
from lab.faults import faults
from lab.faults import soak
from lab import lifecycle
from lab import matrix
from lab.openstack import settings
from lab.openstack import stack
from lab.paths import paths
from lab import test

COMMANDS: dict[str, command.Command] = {
    'up': lifecycle.Up(), 'demo': demo, 'paths': paths, 'attacks': attacks,
    'stopped': stopped, 'bench': bench, 'faults': faults, 'soak': soak,
    'pressure': pressure, 'test': test, 'matrix': matrix,
    'guest': lifecycle.Guest(), 'down': lifecycle.Down(),
    'env': lifecycle.Env(),
    'driver': lifecycle.Driver()}
# All but these have the lab up first; `down` removes the environment.
STANDARD_LIBRARY = ('guest', 'down', 'env')
AS_IT_IS = (*STANDARD_LIBRARY, 'driver')
LOG_LINES = 15
LINE_LENGTH = 200


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='lab/run', description='A real OpenStack on this machine, in'
        f' {settings.DEFAULT_ROOT} or $SNAPDRIVER_LAB.')
    commands = parser.add_subparsers(dest='command', required=True,
                                     metavar='COMMAND')
    for name, one in COMMANDS.items():
        summary = (one.__doc__ or '').splitlines()[0].rstrip('.')
        one.add_arguments(commands.add_parser(
            name, help=summary, description=f'{summary}.'))
    return parser


def _run(args: argparse.Namespace) -> int:
    lab = stack.Stack(settings.load())
    # Debian 13 has a lab of its own.
    elsewhere = getattr(args, 'debian13', None) is not None
    needs_lab = not elsewhere and args.command not in AS_IT_IS
    if not (elsewhere or args.command in STANDARD_LIBRARY or _entered(lab)):
        if needs_lab:
            lab.install()
        python = lab.settings.bin('python')
        if not os.path.exists(python):
            raise settings.LabError('it is not installed; try lab/run up')
        os.execve(python, [python, '-m', 'lab', *sys.argv[1:]],
                  settings.environment())
    if needs_lab:
        lab.start()
    return COMMANDS[args.command].run(lab, args)


def _entered(lab: stack.Stack) -> bool:
    """Return whether this is the virtual environment's Python."""
    venv = lab.settings.venv
    return venv.exists() and os.path.samefile(sys.prefix, venv)


def _explain(error: settings.LabError) -> None:
    """Print what failed, and the end of the log."""
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
    args = _parser().parse_args()
    if os.geteuid() != 0:
        print('lab: this must run as root; try sudo', file=sys.stderr)
        return 1
    try:
        return _run(args)
    except settings.LabError as error:
        _explain(error)
    except KeyboardInterrupt:
        print('lab: interrupted', file=sys.stderr)
    return 1


if __name__ == '__main__':
    sys.exit(main())

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

"""Test the driver on other releases of Nova, or on Debian 13."""

import argparse
import subprocess

from lab import command as lab_command
from lab import debian13
from lab.openstack import process
from lab.openstack import settings
from lab.openstack import stack

ENVIRONMENTS = 'functional-nova31,functional-nova32,functional-nova33'
# What meets Nova's own code: each path once. The rest does not depend on
# Nova's release.
TESTS = ('-m', 'quick', 'tests/functional/test_driver.py',
         'tests/functional/test_live.py', 'tests/functional/test_mirror.py')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--debian13', metavar='FOLDER', type=lab_command.path,
        help='instead, unit and functional tests on Debian 13, which is'
        ' installed in FOLDER and kept there')
    parser.add_argument('--demo', action='store_true',
                        help='with --debian13: the demo instead of tests')


def run(lab: stack.Stack, args: argparse.Namespace) -> int:
    """Install what is missing, and run the tests."""
    if args.debian13:
        return debian13.run(lab.settings, args.debian13.resolve(), args.demo)
    return subprocess.run(
        command(lab.settings), cwd=lab.settings.checkout,
        env=settings.environment()).returncode


def command(conf: settings.Settings) -> list[str]:
    """Return the command, which is installed where it is missing.

    :raises LabError: it cannot be installed
    """
    home = conf.root / 'matrix'
    log = conf.log('matrix')
    tox = home / 'bin' / 'tox'
    if not tox.exists():
        process.run(log, '/usr/bin/python3', '-m', 'venv', '--clear', home)
        process.run(log, home / 'bin' / 'pip', 'install', 'tox>=4.2')
    return [str(tox), 'run-parallel', '--parallel', 'all',
            '--parallel-no-spinner', '--workdir', str(home / 'tox'), '-e',
            ENVIRONMENTS, '--', *TESTS]

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

"""The subcommands that start, use and remove the lab itself."""

import argparse

from lab.openstack import config
from lab.openstack import loneguest
from lab.openstack import stack


class Up:
    """Install and start what is missing."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        pass

    def run(self, lab: stack.Stack, args: argparse.Namespace) -> int:
        return 0


class Down(Up):
    """Stop and remove all of the lab."""

    def run(self, lab: stack.Stack, args: argparse.Namespace) -> int:
        lab.down()
        return 0


class Guest(Up):
    """Boot a guest in libvirt, without OpenStack."""

    def run(self, lab: stack.Stack, args: argparse.Namespace) -> int:
        loneguest.boot(lab)
        print(loneguest.NAME)
        return 0


class Env(Up):
    """Print the environment that the openstack command needs."""

    def run(self, lab: stack.Stack, args: argparse.Namespace) -> int:
        for name, value in lab.cloud.environment.items():
            print(f'export {name}={value}')
        print(f'export PATH={lab.settings.venv}/bin:$PATH')
        return 0


class Driver:
    """Start nova-compute with a driver."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument('name', choices=sorted(config.DRIVERS))
        parser.add_argument('--mode', choices=config.MODES,
                            default=config.MODES[0])
        parser.add_argument('--user', choices=config.USERS,
                            default=config.ROOT,
                            help='the account that it runs as')
        parser.add_argument(
            '--set', metavar='GROUP.OPTION=VALUE', type=config.option,
            action='append', default=[], help='set an option of nova.conf')

    def run(self, lab: stack.Stack, args: argparse.Namespace) -> int:
        lab.compute(config.Compute(args.name, args.mode, tuple(args.set),
                                   args.user))
        return 0

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

"""Let everything go wrong, one row each, and check what is left."""

import argparse

from lab import command
from lab.faults import comparison
from lab.faults import harness
from lab.faults import kills
from lab.faults import outside
from lab.faults import ownership
from lab.openstack import settings
from lab.openstack import stack

DRIVERS = ('ours', 'stock')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    command.add_json(parser)
    command.add_only(parser)
    command.add_seed(parser)
    parser.add_argument('--driver', choices=DRIVERS, default=DRIVERS[0])
    parser.add_argument('--rst', metavar='FILE', type=command.path,
                        help='write a table of the rows beside those of'
                             ' --stock, for the documentation')
    parser.add_argument('--stock', metavar='FILE', type=command.path,
                        help='what --driver stock --json has written')


def run(lab: stack.Stack, args: argparse.Namespace) -> int:
    if (args.rst is None) != (args.stock is None):
        raise settings.LabError('--rst and --stock are for each other')
    print(harness.HEADINGS)
    with harness.Harness(lab, args.driver, args.seed, args.json) as found:
        _try(found, args)
    if args.rst is not None:
        args.rst.write_text(comparison.table(found.rows, args.stock))
    return found.table.status()


def _try(found: harness.Harness, args: argparse.Namespace) -> None:
    """Try the rows that were asked for."""
    outside.Outside(found).run(
        command.chosen(outside.listed(args.driver), args.only))
    if args.driver == 'ours':
        ownership.Stories(found).run(
            command.chosen(ownership.listed(), args.only))
        kills.Kills(found).run(command.chosen(kills.listed(), args.only))

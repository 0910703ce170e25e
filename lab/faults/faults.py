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
import collections.abc
import json
import pathlib
import re

from lab import command
from lab.faults import crowd
from lab.faults import harness
from lab.faults import hosts
from lab.faults import kills
from lab.faults import outside
from lab.faults import ownership
from lab.faults import pool
from lab.openstack import settings
from lab.openstack import stack

DRIVERS = ('ours', 'stock')
HEADER = """\
.. list-table::
   :header-rows: 1
   :widths: 30 15 55

   * - fault
     - this driver
     - Nova's own
"""
# What differs in each run is left out or shortened.
NAMES = ((rf'{harness.NAME}-\S+', 'the guest'),
         (r'left behind: file \S+', 'left behind: a file'),
         (r'left behind: process .*', 'left behind: a process'),
         (r'[0-9a-f]{8}-[0-9a-f-]{27}', '…'),
         (r'/\S*/', ''))
LONGEST = 90


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
        args.rst.write_text(comparison(found.rows, args.stock))
    return found.table.status()


def _try(found: harness.Harness, args: argparse.Namespace) -> None:
    """Try the rows that were asked for."""
    outside.Outside(found).run(
        command.chosen(outside.listed(args.driver), args.only))
    if args.driver == 'ours':
        ownership.Stories(found).run(
            command.chosen([*ownership.listed(), *crowd.listed(),
                            *hosts.listed()], args.only))
        outside.Outside(found).run(
            command.chosen(pool.listed(found.conf), args.only))
        kills.Kills(found).run(command.chosen(kills.listed(), args.only))


def comparison(rows: collections.abc.Sequence[harness.Row],
               stock: pathlib.Path) -> str:
    """Return the rows of a run next to those of Nova's own driver, as RST.

    :param stock: what ``faults --driver stock --json`` has written
    """
    others = {row['name']: row
              for row in json.loads(stock.read_text())['rows']}
    return HEADER + ''.join(
        f'   * - {row.name}\n'
        f'     - {_said(row.problems)}\n'
        f'     - {_said(others[row.name]["problems"])}\n'
        for row in rows if row.name in others)


def _said(problems: collections.abc.Iterable[object]) -> str:
    """Return the problems, each once."""
    found = dict.fromkeys(_short(str(one)) for one in problems)
    return '; '.join(found) or 'held'


def _short(problem: str) -> str:
    text = ' '.join(problem.split())
    for pattern, word in NAMES:
        text = re.sub(pattern, word, text)
    if len(text) > LONGEST:
        text = text[:LONGEST].rsplit(' ', 1)[0] + ' …'
    return re.sub(r'([*`|\\_])', r'\\\1', text)

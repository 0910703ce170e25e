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


"""The fault harness: one row for each thing that goes wrong."""

import argparse
import collections.abc
import pathlib

from lab.faults import comparison
from lab.faults import harness
from lab.faults import kills
from lab.faults import outside
from lab.openstack import settings
from lab.openstack import stack
from lab.openstack import steps

DRIVERS = ('ours', 'stock')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--json', metavar='FILE', type=pathlib.Path,
                        help='write the rows there, too')
    parser.add_argument('--seed', metavar='N', type=int, default=1,
                        help='decides all random moments')
    parser.add_argument('--only', metavar='WORDS', action='append',
                        default=[], help='the rows with this in their names')
    parser.add_argument('--driver', choices=DRIVERS, default=DRIVERS[0])
    parser.add_argument('--rst', metavar='FILE', type=pathlib.Path,
                        help='write a table of the rows beside those of '
                             '--stock, for the documentation, there')
    parser.add_argument('--stock', metavar='FILE', type=pathlib.Path,
                        help='what --driver stock --json has written')


def run(lab: stack.Stack, arguments: argparse.Namespace,
        place: collections.abc.Callable[[pathlib.Path | None],
                                        pathlib.Path | None]) -> int:
    """Try all faults on a lab that is up; returns the exit status.

    :param place: gives the path of a file that was named by the caller
    """
    driver, only = arguments.driver, arguments.only
    target, stock = place(arguments.rst), place(arguments.stock)
    if (target is None) != (stock is None):
        raise settings.LabError('--rst and --stock are for each other')

    def wanted(name: str) -> bool:
        return not only or any(word in name for word in only)

    print(harness.HEADINGS)
    bench = harness.Harness(lab, driver, arguments.seed)
    rows = bench.rows
    try:
        with bench:
            outside.Outside(bench).run(
                [one for one in outside.listed(driver) if wanted(one.name)])
            if driver == 'ours':
                kills.Kills(bench).run(
                    [one for one in kills.cases() if wanted(one.name)])
    finally:
        # What there is, also after a failure: it has taken long.
        steps.save(place(arguments.json), rows=rows)
    if target is not None and stock is not None:
        target.write_text(comparison.table(rows, stock))
    fine = [row for row in rows if row.ok]
    print(f'{len(fine)} of {len(rows)} rows are ok')
    return 0 if rows and len(fine) == len(rows) else 1

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

"""Check this host and nova.conf, and say what to do.

Changes nothing. Exit status, as that of nova-status: 0 all is well, 1 there
are warnings, 2 something has to be put right. Run it as nova-compute's user:
root may write everywhere.
"""

import argparse
from collections.abc import Sequence
import json
import textwrap
from typing import Any

import libvirt
from nova.virt.libvirt import driver
import prettytable

from nova_snapdriver.cmd import base
from nova_snapdriver.cmd import conffiles
from nova_snapdriver.cmd import register
from nova_snapdriver.compute import checks

_TITLE = 'Snapshot Driver Check Results'
_WIDTH = 60


def add_arguments(parser: argparse.ArgumentParser) -> None:
    conffiles.add_arguments(parser)
    parser.add_argument('--json', action='store_true',
                        help='print JSON, as nova-status does')


def run(args: argparse.Namespace) -> int:
    conffiles.load(args)
    registered = checks.Check('Registration', _registered)
    found = checks.run((registered, *checks.CHECKS), _Libvirt())
    print(_json(found) if args.json else _table(found))
    return int(max(one.level for one in found))


def _registered(connection: Any) -> str | None:
    try:
        register.check(register.find_drivers() / register.MODULE_NAME)
    except base.CommandError as ex:
        return str(ex)
    return None


class _Libvirt:
    """Connects when it is asked: one that is away is a finding."""

    def __getattr__(self, name: str) -> Any:
        libvirt.registerErrorHandler(lambda context, error: None, None)
        connection = libvirt.open(driver.LibvirtDriver._uri())
        return getattr(connection, name)


def _json(found: Sequence[checks.Finding]) -> str:
    return json.dumps({'name': _TITLE, 'checks': [
        {'check': one.name, 'result': int(one.level),
         'details': one.details or None} for one in found]})


def _table(found: Sequence[checks.Finding]) -> str:
    table = prettytable.PrettyTable([_TITLE])
    table.hrules = prettytable.ALL
    table.align = 'l'
    for one in found:
        table.add_row(['Check: %s\nResult: %s\nDetails: %s' % (
            one.name, one.level.name.capitalize(),
            textwrap.fill(one.details or 'None', _WIDTH,
                          subsequent_indent='  '))])
    return str(table)

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

"""Undo the snapshots of this host that a crash of nova-compute left.

Ends their backup jobs, thaws their guests, removes their files and deletes
their unfinished images. nova-compute does the same when it starts. Snapshots
that still run are left alone. Exit status 1: something could not be undone.
"""

import argparse
from typing import Any

import libvirt
from nova import exception as nova_exception
from nova.virt.libvirt import driver
from nova.virt.libvirt import guest as nova_guest

from nova_snapdriver.cmd import conffiles
from nova_snapdriver.recovery import undo


def add_arguments(parser: argparse.ArgumentParser) -> None:
    conffiles.add_arguments(parser)
    parser.add_argument('--dry-run', action='store_true',
                        help='say what would be done, and do nothing')


def run(args: argparse.Namespace) -> int:
    entries = conffiles.load(args)
    outcomes = undo.Recovery(
        _Host(), conffiles.CONF.snapdriver.agent_timeout,
        args.dry_run).run(entries)
    for outcome in outcomes:
        _print(outcome, 'to do' if args.dry_run else 'done')
    if not outcomes:
        print('no snapshot was abandoned')
    return int(any(outcome.failed for outcome in outcomes))


class _Host:
    """What a recovery wants of Nova's Host.

    That one waits for events in threads which never end; where nova-compute
    uses native threads, this command would not end either.
    """

    def __init__(self) -> None:
        # Errors are raised; libvirt need not print them as well.
        libvirt.registerErrorHandler(lambda context, error: None, None)
        self._connection = libvirt.open(driver.LibvirtDriver._uri())

    def get_guest(self, instance: Any) -> nova_guest.Guest:
        try:
            return nova_guest.Guest(
                self._connection.lookupByUUIDString(instance.uuid))
        except libvirt.libvirtError as ex:
            if ex.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
                raise
            raise nova_exception.InstanceNotFound(
                instance_id=instance.uuid) from ex


def _print(outcome: undo.Outcome, verb: str) -> None:
    print('image %s of instance %s' % (outcome.entry.image,
                                       outcome.entry.instance))
    for done in outcome.done:
        print('  %s: %s' % (verb, done))
    for failed in outcome.failed:
        print('  FAILED: %s' % failed)

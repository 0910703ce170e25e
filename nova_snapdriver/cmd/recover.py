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

"""Undo what a crash of nova-compute, or of snapshot, left on this host.

Ends their backup jobs, thaws their guests, removes their files and deletes
their unfinished images. nova-compute does the same when it starts. Snapshots
that still run are left alone. A guest that a snapshot has suspended is started
if Nova's database expects it to run, which nova-conductor is asked for.
Snapshots that "nova-snapdriver snapshot" took are none of Nova's, whose
database is not asked for them; without nova.conf they are the only ones. Exit
status 1: something could not be undone.
"""

import argparse
import json
import threading
from typing import Any

import libvirt
from nova.conductor import rpcapi as conductor_rpcapi
from nova import exception as nova_exception
from nova import objects
from nova.objects import base as objects_base
from nova import rpc
from nova.virt.libvirt import driver
from nova.virt.libvirt import guest as nova_guest

from nova_snapdriver.cmd import base
from nova_snapdriver.cmd import conffiles
from nova_snapdriver.cmd import locally
from nova_snapdriver import conf
from nova_snapdriver import database
from nova_snapdriver import exception
from nova_snapdriver import guest as snap_guest
from nova_snapdriver import journal
from nova_snapdriver.local import libvirtd
from nova_snapdriver.local import undo as local_undo
from nova_snapdriver.recovery import undo

# To hear from nova-conductor. A message queue that is away is waited for
# without end by oslo.messaging.
_ANSWER_SECONDS = 15


def add_arguments(parser: argparse.ArgumentParser) -> None:
    conffiles.add_arguments(parser)
    locally.add_journal(parser)
    locally.add_connect(parser)
    parser.add_argument('--dry-run', action='store_true',
                        help='say what would be done, and do nothing')
    parser.add_argument('--json', action='store_true',
                        help='print an array of objects')


def run(args: argparse.Namespace) -> int:
    ours, novas = locally.journals(args)
    status = conffiles.report_unusable(ours)
    outcomes = _recover_ours(ours, args)
    if novas is not None:
        status = max(status, conffiles.report_unusable(novas))
        outcomes += _recover_novas(novas, args)
    if args.json:
        print(json.dumps(list(map(_values, outcomes)), indent=2))
    elif not outcomes:
        print('no snapshot was abandoned')
    return max(status, int(any(outcome.failed for outcome in outcomes)))


def _recover_ours(entries: journal.Journal,
                  args: argparse.Namespace) -> list[undo.Outcome]:
    """Undo snapshots that were taken without Nova."""
    if not entries:
        return []
    try:
        host = libvirtd.Libvirt(args.connect)
    except exception.CaptureFailed as ex:
        raise base.CommandError('nothing was done: %s' %
                                ex.kwargs['reason']) from ex
    conf.register_opts(conffiles.CONF)
    outcomes = local_undo.Recovery(
        undo.Tools(host, _launch, _attach,
                   conffiles.CONF.snapdriver.agent_timeout),
        args.dry_run).run(entries)
    for outcome in outcomes:
        _print('snapshot of domain %s' % outcome.entry.instance, outcome, args)
    return outcomes


def _recover_novas(entries: journal.Journal,
                   args: argparse.Namespace) -> list[undo.Outcome]:
    """Undo nova-compute's snapshots."""
    objects.register_all()
    objects_base.NovaObject.indirection_api = _Conductor()
    outcomes = undo.Recovery(
        undo.Tools(_Host(), _launch, _attach,
                   conffiles.CONF.snapdriver.agent_timeout),
        args.dry_run).run(entries)
    for outcome in outcomes:
        _print('image %s of instance %s' % (
            outcome.entry.image, outcome.entry.instance), outcome, args)
    return outcomes


class _Conductor:
    """Asks nova-conductor for objects, as nova-compute does, with a limit."""

    def __init__(self) -> None:
        self._away = False

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            return self._answer(name, arguments, named)

        return call

    def _answer(self, name: str, arguments: Any, named: Any) -> Any:
        found: list[Any] = []

        def ask() -> None:
            try:
                if rpc.TRANSPORT is None:
                    rpc.init(conffiles.CONF)
                api = conductor_rpcapi.ConductorAPI()
                found.append(getattr(api, name)(*arguments, **named))
            except Exception as ex:
                found.append(ex)

        if not self._away:
            asking = threading.Thread(target=ask, daemon=True)
            asking.start()
            asking.join(_ANSWER_SECONDS)
        if not found:
            self._away = True
            raise exception.ServerBusy(reason='nova-conductor does not answer')
        if isinstance(found[0], Exception):
            raise found[0]
        return found[0]


class _Host:
    """What a recovery wants of Nova's Host.

    That one waits for events in threads which never end; where nova-compute
    uses native threads, this command would not end either.

    :raises CommandError: libvirt does not answer
    """

    def __init__(self) -> None:
        # Errors are raised; libvirt need not print them as well.
        libvirt.registerErrorHandler(lambda context, error: None, None)
        try:
            self._connection = libvirt.open(driver.LibvirtDriver._uri())
        except libvirt.libvirtError as ex:
            raise base.CommandError('nothing was done, as libvirt does not '
                                    'answer: %s' % ex) from ex

    def get_guest(self, instance: Any) -> nova_guest.Guest:
        try:
            return nova_guest.Guest(
                self._connection.lookupByUUIDString(instance.uuid))
        except libvirt.libvirtError as ex:
            if ex.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
                raise
            raise nova_exception.InstanceNotFound(
                instance_id=instance.uuid) from ex


# What only nova-compute can give a guest is left to do.

def _launch(uuid: str, guest: snap_guest.Guest) -> list[str]:
    instance = database.find(uuid, *database.DEVICES)
    guest.start()
    if not instance.numa_topology:
        return []
    return [_left(uuid, 'CPUs of its own, which Nova may have powered down')]


def _attach(uuid: str, guest: snap_guest.Guest) -> list[str]:
    devices = database.find(uuid, *database.DEVICES).pci_devices
    if not devices or not devices.objects:
        return []
    return [_left(uuid, 'PCI devices')]


def _left(uuid: str, what: str) -> str:
    return ('it is still to get back its %s: "openstack server reboot --hard '
            '%s" does that' % (what, uuid))


def _values(outcome: undo.Outcome) -> dict[str, Any]:
    return {'instance': outcome.entry.instance, 'image': outcome.entry.image,
            'path': outcome.path, 'done': outcome.done,
            'failed': outcome.failed}


def _print(what: str, outcome: undo.Outcome,
           args: argparse.Namespace) -> None:
    if args.json:
        return
    print(what)
    for done in outcome.done:
        print('  %s: %s' % ('to do' if args.dry_run else 'done', done))
    for failed in outcome.failed:
        print('  FAILED: %s' % failed)

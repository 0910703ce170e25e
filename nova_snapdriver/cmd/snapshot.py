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

"""Take a snapshot of any libvirt domain into a file, or into Glance.

Needs libvirt, QEMU and root, and no OpenStack: no nova.conf, no database, no
message queue. A running guest is captured by a backup job, or by a block copy
where its host has no backup API; the disk of a stopped one is read in place. A
guest is never suspended. The image is compared with what was sent before it
has its name. Ctrl-C leaves nothing; what a crash leaves, "nova-snapdriver
recover" undoes. Exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted.
"""

import argparse
from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import dataclasses
import json
import logging
import os
import time
from typing import Any

import libvirt
import nova.conf
from nova import exception as nova_exception
from rich import console as rich_console
from rich import logging as rich_logging
from rich import progress as rich_progress

from nova_snapdriver.cmd import base
from nova_snapdriver.cmd import locally
from nova_snapdriver import exception
from nova_snapdriver.local import interrupts
from nova_snapdriver.local import libvirtd
from nova_snapdriver.local import snapshot
from nova_snapdriver.stream import codec
from nova_snapdriver.stream import formats
from nova_snapdriver.transfer import file as snap_file
from nova_snapdriver.transfer import process

CONF = nova.conf.CONF

INTERRUPTED = 130       # as a shell has it: 128 and SIGINT

_MI = 1 << 20
# Of the file, as `sha256sum` checks it; and the one that Glance computes.
_FILE_HASH, _GLANCE_HASH = 'sha256', 'sha512'

# What the driver says to the operator of a cloud, in this command's words.
_MESSAGES: dict[type[Exception], str] = {
    exception.QuiesceFailed: '--quiesce is given, and the guest could not be '
                             'quiesced: %s',
    exception.DirectoryUnusable: 'the guest was not touched: %s. Give another '
                                 '--scratch-directory, which QEMU can use',
    exception.ScratchExhausted: 'the guest was not harmed: %s. Give another '
                                '--scratch-directory, or take the snapshot '
                                'when the guest writes less',
    exception.JournalUnusable: 'the journal in --journal-directory: %s',
    exception.DiskUnusable: 'the guest was not touched: %s',
    exception.CaptureFailed: 'the disk could not be captured: %s',
    exception.StreamFailed: 'the disk could not be read: %s',
    exception.UploadFailed: '%s',
    exception.ImageRefused: '%s. With --format qcow2 the disk can be taken as '
                            'it is',
    exception.VerifyFailed: 'the image is not what was sent, and is removed: '
                            '%s',
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the domain, where its image goes, and how."""
    parser.add_argument('domain', metavar='DOMAIN',
                        help='name or UUID, as virsh list --all shows it')
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument('--output', metavar='FILE',
                        help='write the image to this file, private to root')
    target.add_argument(
        '--image', metavar='NAME',
        help='make an image in Glance, with the credentials of the '
             'environment: OS_CLOUD, or OS_AUTH_URL and its neighbours')
    _add_wishes(parser)
    parser.add_argument('--force', action='store_true',
                        help='replace FILE if it is there')
    parser.add_argument('--json', action='store_true',
                        help='print the result as JSON')
    parser.add_argument('--quiet', action='store_true',
                        help='show no progress')
    parser.add_argument(
        '--scratch-directory', metavar='PATH', default=locally.SCRATCH,
        help='where QEMU keeps what the guest overwrites meanwhile; its user '
             'has to be able to enter it; default: %(default)s')
    locally.add_journal(parser)
    locally.add_connect(parser)


def _add_wishes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--format', choices=sorted(formats.FORMATS),
                        default='qcow2', help='of the image; default: qcow2')
    parser.add_argument('--compression', choices=sorted(codec.COMPRESSORS),
                        help='compress the clusters of a qcow2 image')
    parser.add_argument(
        '--quiesce', action=argparse.BooleanOptionalAction, default=None,
        help="freeze the guest's file systems, or fail; with --no-quiesce, "
             'leave its agent alone; default: freeze them if its agent is '
             'connected, and say in the result whether that worked')
    parser.add_argument('--disk', metavar='TARGET',
                        help='which disk, such as vdb; default: the first')
    parser.add_argument('--method', choices=('auto', 'live', 'mirror'),
                        default='auto', help='how a running guest is '
                        'captured; default: what its host supports')


def run(args: argparse.Namespace) -> int:
    """Take the snapshot.

    :raises CommandError: it failed, with what to do
    """
    _check(args)
    locally.configure(args.scratch_directory)
    console = rich_console.Console(stderr=True)
    logging.basicConfig(level=logging.WARNING, format='%(message)s', handlers=[
        rich_logging.RichHandler(console=console, show_time=False,
                                 show_path=False)])
    with interrupts.Interrupts() as noted:
        try:
            result = _take(args, noted, console)
        except exception.Cancelled as ex:
            if not noted.noted:
                raise base.CommandError(_explained(ex)) from ex
            console.print('nova-snapdriver: interrupted, nothing is left')
            return INTERRUPTED
        except (nova_exception.NovaException, libvirt.libvirtError,
                OSError) as ex:
            raise base.CommandError(_explained(ex)) from ex
    _print(result, args.json)
    return 0


def _check(args: argparse.Namespace) -> None:
    """:raises CommandError: what is asked for does not go together"""
    if os.geteuid() != 0:
        raise base.CommandError('run this as root: it reads the disks of '
                                'guests, and asks their libvirt')
    if args.compression and not formats.FORMATS[args.format].packed:
        raise base.CommandError('--compression is for --format qcow2 alone')
    missing = args.compression and codec.missing(args.compression)
    if missing:
        raise base.CommandError('--compression %s needs %s' %
                                (args.compression, missing))


def _take(args: argparse.Namespace, noted: interrupts.Interrupts,
          console: rich_console.Console) -> dict[str, Any]:
    began = time.monotonic()
    libvirtd.deliver_events()
    wishes = snapshot.Wishes(args.disk, args.format, args.quiesce, args.method)
    way = snapshot.plan(libvirtd.Libvirt(args.connect), args.domain, wishes,
                        CONF)
    target = _target(args, way)
    with _progress(console, args) as progress, target.held():
        result = snapshot.take(
            snapshot.Task(way, wishes, target,
                          process.Compression(args.compression),
                          _FILE_HASH if args.output else _GLANCE_HASH,
                          progress, noted),
            snapshot.entries_of(args.journal_directory), CONF)
    return {'domain': way.guest.name, 'disk': way.disk.target,
            **target.place, 'format': args.format,
            **dataclasses.asdict(result),
            'seconds': round(time.monotonic() - began, 1)}


def _target(args: argparse.Namespace, way: snapshot.Way) -> snapshot.Target:
    if args.output:
        return snap_file.File(args.output, way.data(), args.force)
    # Late, as the client is large.
    from nova_snapdriver.local import cloud
    return cloud.Image(args.image, args.format)


@contextlib.contextmanager
def _progress(console: rich_console.Console, args: argparse.Namespace
              ) -> Iterator[Callable[[int, int], None]]:
    """Show a bar, where a person looks."""
    with rich_progress.Progress(
            rich_progress.TextColumn('{task.description}'),
            rich_progress.BarColumn(), rich_progress.DownloadColumn(True),
            rich_progress.TransferSpeedColumn(),
            rich_progress.TimeRemainingColumn(), console=console,
            transient=True, disable=args.quiet or not console.is_terminal
    ) as shown:
        bar = shown.add_task(args.domain, total=None)

        def advance(done: int, length: int) -> None:
            shown.update(bar, completed=done, total=length)

        yield advance


def _explained(error: Exception) -> str:
    """An error in one line, for a person in a hurry."""
    template = _MESSAGES.get(type(error))
    reason = getattr(error, 'kwargs', {}).get('reason')
    if template is None or reason is None:
        return str(error)
    return template % (reason,)


def _print(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(result, indent=2))
        return
    print('%s: %d MiB in %.1f s, method %s, consistency %s' % (
        result.get('path') or result.get('image'), result['size'] // _MI,
        result['seconds'], result['method'], result['consistency']))
    print('%s %s' % (result['algorithm'], result['digest']))

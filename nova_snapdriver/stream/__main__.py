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

"""The stream process: an NBD export in, the bytes of an image out.

``python -m nova_snapdriver.stream --socket PATH --export NAME --format F``

The image leaves on standard output. Standard error carries one JSON object a
line: ``{"event": "layout", …}`` before the first byte, and at the end either
``{"event": "done", …}`` or ``{"event": "error", …}``. An image is whole only
if the process said done and ended with status 0.

With ``--spool`` it runs ahead of whoever reads the image from the moment when
its standard input can be read: what the pipe does not take is kept in a file.
With ``--captured`` it says when the export is not needed any more.
"""

import argparse
import json
import os
import resource
import sys

from nova_snapdriver.stream import extents
from nova_snapdriver.stream import layout
from nova_snapdriver.stream import nbd
from nova_snapdriver.stream import pipeline
from nova_snapdriver.stream import qcow2
from nova_snapdriver.stream import raw
from nova_snapdriver.stream import spool
from nova_snapdriver.stream import throttle
from oslo_utils import units

LAYOUTS: dict[str, type[layout.Layout]] = {
    'qcow2': qcow2.Qcow2Layout,
    'raw': raw.RawLayout,
}

# Of address space, most of which is libraries and the stacks of threads; what
# is resident stays under 128 MiB.
_ADDRESS_SPACE = units.Gi
_OPEN_FILES = 64


def _limit_self() -> None:
    for what, limit in ((resource.RLIMIT_AS, _ADDRESS_SPACE),
                        (resource.RLIMIT_NOFILE, _OPEN_FILES),
                        (resource.RLIMIT_CORE, 0)):
        hard = resource.getrlimit(what)[1]
        if hard != resource.RLIM_INFINITY:
            limit = min(limit, hard)
        resource.setrlimit(what, (limit, limit))


def _say(event: str, **values: object) -> None:
    print(json.dumps({'event': event, **values}), file=sys.stderr, flush=True)


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog='python -m nova_snapdriver.stream')
    parser.add_argument('--socket', required=True,
                        help='unix socket of the NBD server')
    parser.add_argument('--export', default='', help='name of the export')
    parser.add_argument('--format', choices=sorted(LAYOUTS), required=True,
                        help='format of the image')
    parser.add_argument('--hash', default='sha512', dest='algorithm',
                        help='hash of the image, a name that hashlib knows')
    parser.add_argument('--bandwidth', type=int, default=0, metavar='BYTES',
                        help='to read in a second at the most; 0 for no limit')
    parser.add_argument('--spool', metavar='PATH',
                        help='directory for a file without a name')
    parser.add_argument('--spool-limit', type=int, default=-1, metavar='BYTES',
                        help='of that file; negative for a share of what is '
                             'free')
    parser.add_argument('--spool-reserve', type=int, default=0,
                        metavar='BYTES', help='that stay free')
    parser.add_argument('--captured', type=int, metavar='DESCRIPTOR',
                        help='where the process number is written once the '
                             'export has been read')
    return parser.parse_args(argv)


def _outlet(arguments: argparse.Namespace) -> spool.Outlet | None:
    if arguments.spool is None:
        return None
    return spool.Outlet(sys.stdout.fileno(), sys.stdin.fileno(),
                        arguments.spool, arguments.spool_limit,
                        arguments.spool_reserve)


def _source(arguments: argparse.Namespace,
            export: nbd.Client) -> pipeline.Source:
    if arguments.bandwidth:
        return throttle.Throttled(export, arguments.bandwidth)
    return export


def _tell_captured(arguments: argparse.Namespace) -> None:
    """All has been read, also if not all has been sent."""
    if arguments.captured is not None:
        os.write(arguments.captured, b'%d\n' % os.getpid())


def _stream(arguments: argparse.Namespace) -> None:
    with nbd.Client(arguments.socket, arguments.export) as export:
        clusters = extents.ClusterMap(export.size)
        for offset, length in export.data_extents():
            clusters.mark(offset, length)
        image = LAYOUTS[arguments.format](clusters)
        _say('layout', length=image.length, virtual_size=export.size,
             data=clusters.count() * clusters.cluster_size)
        with pipeline.Writer(sys.stdout.fileno(), arguments.algorithm,
                             _outlet(arguments)) as writer:
            pipeline.Reader(_source(arguments, export),
                            writer).run(image.segments())
            _tell_captured(arguments)
    if writer.written != image.length:
        raise nbd.ExportError('wrote %d bytes where %d were laid out' %
                              (writer.written, image.length))
    _say('done', length=writer.written, algorithm=arguments.algorithm,
         digest=writer.digest)


def main(argv: list[str] | None = None) -> int:
    arguments = _arguments(argv)
    _limit_self()
    try:
        _stream(arguments)
    except Exception as ex:
        _say('error', message=str(ex) or repr(ex))
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())

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

"""The stream process: read an NBD export, write an image of it.

``python -m nova_snapdriver.stream --socket PATH --export NAME --format F``

The image leaves on standard output. Standard error carries one JSON object a
line: ``{"event": "alive"}`` every few seconds, ``{"event": "layout", …}``
before the first byte, and at the end one of ``{"event": "done", …}``,
``{"event": "outgrown", …}`` (the image needs more room than was predicted) and
``{"event": "error", …}``. An image is whole only if the process said done and
ended with status 0.

With ``--spool``, from the moment when standard input is readable, the export
is read at its own speed: what standard output does not take is kept in a file.
With ``--captured`` the process reports when it needs the export no more.
"""

import json
import os
import resource
import sys
import threading

from nova_snapdriver.stream import arguments as stream_arguments
from nova_snapdriver.stream import choice
from nova_snapdriver.stream import heartbeat
from nova_snapdriver.stream import nbd
from nova_snapdriver.stream import packed
from nova_snapdriver.stream import pipeline
from nova_snapdriver.stream import readahead
from nova_snapdriver.stream import throttle
from oslo_utils import units

# Most of it is for libraries and the stacks of threads: resident memory stays
# under 128 MiB.
_ADDRESS_SPACE = units.Gi
_OPEN_FILES = 64

# By default a thread reserves 8 MiB; no thread here nests deep.
_STACK_BYTES = 512 * units.Ki

# The thread of the heartbeat says something, too.
_saying = threading.Lock()


def _limit_self() -> None:
    for what, limit in ((resource.RLIMIT_AS, _ADDRESS_SPACE),
                        (resource.RLIMIT_NOFILE, _OPEN_FILES),
                        (resource.RLIMIT_CORE, 0)):
        hard = resource.getrlimit(what)[1]
        if hard != resource.RLIM_INFINITY:
            limit = min(limit, hard)
        resource.setrlimit(what, (limit, limit))


def _say(event: str, **values: object) -> None:
    line = json.dumps({'event': event, **values})
    with _saying:
        print(line, file=sys.stderr, flush=True)


def _outlet(arguments: stream_arguments.Arguments) -> readahead.Outlet | None:
    if arguments.spool is None:
        return None
    return readahead.Outlet(sys.stdout.fileno(), sys.stdin.fileno(),
                            arguments.spool, arguments.spool_limit,
                            arguments.spool_reserve)


def _source(arguments: stream_arguments.Arguments, export: nbd.Client,
            outlet: readahead.Outlet | None) -> pipeline.Source:
    source: pipeline.Source = export
    if outlet is not None:
        source = throttle.Shallow(source, lambda: outlet.ahead)
    if arguments.bandwidth:
        source = throttle.Throttled(source, arguments.bandwidth)
    return source


def _report_captured(arguments: stream_arguments.Arguments) -> None:
    """Say that the disk is read, although bytes may still be to be sent."""
    if arguments.captured is not None:
        os.write(arguments.captured, b'%d\n' % os.getpid())


def _stream(arguments: stream_arguments.Arguments) -> None:
    outlet = _outlet(arguments)
    writer = pipeline.Writer(
        sys.stdout.fileno(),
        (None if arguments.hash == stream_arguments.NO_HASH
         else arguments.hash),
        outlet)
    with nbd.Client(arguments.socket, arguments.export,
                    arguments.stall_timeout) as export:
        source = _source(arguments, export, outlet)
        image = choice.choose(arguments, export, source, writer.check)
        _say('layout', length=image.length, virtual_size=export.size,
             **image.about)
        with writer:
            image.write(source, writer)
            _report_captured(arguments)
    if writer.written != image.length:
        raise nbd.ExportError('wrote %d bytes where %d were laid out' %
                              (writer.written, image.length))
    _say('done', length=writer.written, algorithm=arguments.hash,
         digest=writer.digest, **image.outcome)


def main(argv: list[str] | None = None) -> int:
    arguments = stream_arguments.parse(argv)
    _limit_self()
    threading.stack_size(_STACK_BYTES)
    heartbeat.begin(_say, sys.stdout.fileno(), sys.stderr.fileno())
    try:
        _stream(arguments)
    except packed.Outgrown as ex:
        _say('outgrown', message=str(ex), place=ex.place)
        return 1
    except Exception as ex:
        _say('error', message=str(ex) or repr(ex))
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())

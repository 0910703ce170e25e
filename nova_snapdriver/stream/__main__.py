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

With ``--rbd-pool`` and ``--rbd-image`` nothing leaves on standard output: the
data are written into a new image in Ceph; with ``--rbd-verify`` they are read
from there again, and compared. ``{"event": "written", …}`` says how far that
is, and ``{"event": "refused", …}`` or ``{"event": "differs", …}`` at the
end that Ceph did not take it, or gives something else.
"""

from collections.abc import Iterator
import json
import os
import resource
import signal
import sys
import threading
import time

from nova_snapdriver.stream import arguments as stream_arguments
from nova_snapdriver.stream import ceph
from nova_snapdriver.stream import choice
from nova_snapdriver.stream import heartbeat
from nova_snapdriver.stream import layout
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

# With librbd: it has a connection to every OSD, and a score of threads.
_CEPH_ADDRESS_SPACE = 4 * units.Gi
_CEPH_OPEN_FILES = 16384

# Bytes of a raw image that say whether Glance would refuse it.
_HEAD_BYTES = 512

# To close an image takes milliseconds, and the main thread may be in a wait of
# a second.
_CLOSE_SECONDS = 2

# Between two reports of what is written.
_REPORT_BYTES = 64 * units.Mi

# By default a thread reserves 8 MiB; no thread here nests deep.
_STACK_BYTES = 512 * units.Ki

# The thread of the heartbeat says something, too.
_saying = threading.Lock()


def _limit_self(ceph: bool) -> None:
    space = _CEPH_ADDRESS_SPACE if ceph else _ADDRESS_SPACE
    files = _CEPH_OPEN_FILES if ceph else _OPEN_FILES
    for what, limit in ((resource.RLIMIT_AS, space),
                        (resource.RLIMIT_NOFILE, files),
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
         digest=writer.digest, read=export.bytes_read, **image.outcome)


class _Progress:
    """Says how much is written, now and then."""

    def __init__(self) -> None:
        self._said = 0

    def __call__(self, done: int) -> None:
        if done - self._said >= _REPORT_BYTES:
            self._said = done
            _say('written', bytes=done, last=False)


def _head(source: pipeline.Source, size: int) -> str:
    """The first bytes of a disk, in hex."""
    content = memoryview(bytearray(min(_HEAD_BYTES, size)))
    errors: list[int] = []
    source.read(content, 0, errors.append)
    while not errors:
        source.wait()
    if errors[0]:
        raise nbd.ExportError('read at 0 failed: %s' % os.strerror(errors[0]))
    return content.hex()


def _let_go() -> None:
    """Have the main thread close the image, for a moment."""
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_CLOSE_SECONDS)


def _store(arguments: stream_arguments.Arguments) -> None:
    """Write the data into a new image in Ceph."""
    place = ceph.Place(arguments.rbd_pool, arguments.rbd_image,
                       arguments.rbd_user, arguments.rbd_conf,
                       arguments.rbd_stall_timeout)
    # Of an image that nobody has closed, Ceph believes for half a minute that
    # it is in use, and does not remove it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with nbd.Client(arguments.socket, arguments.export,
                    arguments.stall_timeout) as export:
        source = _source(arguments, export, None)
        clusters = choice.mapped(export)
        _say('layout', length=export.size, virtual_size=export.size,
             place=0, plain='', head=_head(source, export.size))
        with ceph.Image(place, export.size) as image:
            _say('written', bytes=0, last=False)
            _fill(image, source, layout.reads(clusters), arguments)
        _say('written', bytes=export.size, last=True)
        _say('done', length=export.size, digest='', read=export.bytes_read)


def _fill(image: ceph.Image, source: pipeline.Source,
          reads: Iterator[layout.Read],
          arguments: stream_arguments.Arguments) -> None:
    with ceph.Writer(image, arguments.rbd_stall_timeout,
                     arguments.rbd_verify, _Progress()) as writer:
        pipeline.Reader(source, writer).run(reads)
        writer.finish()
        image.snapshot()


def main(argv: list[str] | None = None) -> int:
    arguments = stream_arguments.parse(argv)
    into_ceph = bool(arguments.rbd_image)
    _limit_self(into_ceph)
    threading.stack_size(_STACK_BYTES)
    heartbeat.begin(_say, sys.stdout.fileno(), sys.stderr.fileno(),
                    *([_let_go] if into_ceph else []))
    try:
        (_store if into_ceph else _stream)(arguments)
    except ceph.Refused as ex:
        _say('refused', message=str(ex))
        return 1
    except ceph.Differs as ex:
        _say('differs', message=str(ex))
        return 1
    except packed.Outgrown as ex:
        _say('outgrown', message=str(ex), place=ex.place)
        return 1
    except Exception as ex:
        _say('error', message=str(ex) or repr(ex))
        return 1
    return 0


if __name__ == '__main__':
    status = main()
    # Threads of librbd's may wait for Ceph, and are not waited for.
    os._exit(status)

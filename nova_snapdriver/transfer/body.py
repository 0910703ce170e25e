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

"""The image as the body of an HTTP request, which may be sent again."""

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import dataclasses
import types
from typing import Self

from oslo_log import log as logging

from nova_snapdriver import exception
from nova_snapdriver import faultpoint
from nova_snapdriver import metrics
from nova_snapdriver.transfer import process
from nova_snapdriver.transfer import safety

LOG = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
Finished = Callable[[int, str | None], None]


class ImageBody:
    """An image of known length that can be read any number of times.

    Each iteration starts a stream process of its own and gives the image from
    its first byte: the export still shows the same point in time. So a request
    that is sent again (by Keystone's session after a 401, after a redirect,
    by a retry) sends the whole image again, never the rest of it. Its length
    changes only after an iteration that has raised Outgrown.

    :param request: what to stream
    :param progress: called after each chunk with the bytes given so far and
        the length; what it raises ends the stream
    :param finished: called with the length and the hash (None without one)
        after the last chunk, before the iteration ends
    :param again: called as ``progress`` is, while :meth:`hash_again` reads
    :param meter: where the bytes are noted that were read from the disk
    """

    def __init__(self, request: process.Request,
                 progress: Progress | None = None,
                 finished: Finished | None = None,
                 again: Progress | None = None,
                 meter: metrics.Meter | None = None) -> None:
        self._request = request
        self._meter = meter or metrics.Meter()
        self._progress = progress
        self._finished = finished
        self._again = again
        self._ready: process.StreamProcess | None = None
        self._latest: process.StreamProcess | None = None
        self._length: int | None = None
        self._cancelled = False
        self._outgrown = 0
        self._open = contextlib.ExitStack()
        self.digest: str | None = None
        #: Whether an iteration has come to its end.
        self.whole = False

    def __enter__(self) -> Self:
        """:raises StreamFailed: the stream process cannot be started"""
        # The length is needed before the first iteration, which then uses
        # this process.
        self._ready = self._start()
        return self

    def __exit__(self, exc_type: type[BaseException] | None,
                 exc: BaseException | None,
                 traceback: types.TracebackType | None) -> None:
        self._open.close()

    def cancel(self) -> None:
        """End the stream, from another thread, and start no other."""
        self._cancelled = True
        if self._latest is not None:
            self._latest.kill()

    def prepare(self) -> None:
        """Start and lay out the stream that the next iteration uses.

        A sample of the disk takes a while: no server should wait for the
        first byte meanwhile.

        :raises StreamFailed: the image cannot be laid out
        """
        if self._ready is None:
            self._open.close()
            self._ready = self._start()
        if self._ready.length != self.length:
            raise exception.StreamFailed(
                reason='the image has %d bytes, and had %d when it was first '
                       'laid out' % (self._ready.length, self.length))

    @property
    def image_format(self) -> str:
        return self._request.image_format

    def head(self, size: int) -> bytes:
        """The first bytes of the image, which the next iteration gives, too.

        :raises StreamFailed: the image cannot be laid out or read
        """
        self.prepare()
        assert self._ready is not None
        return self._ready.head(size)

    @property
    def length(self) -> int:
        """The length of the image in bytes.

        :raises StreamFailed: the image cannot be laid out
        """
        if self._length is None:
            if self._ready is None:
                self._ready = self._start()
            self._length = self._ready.length
            # If it is to be sent again, then with the same length.
            self._request = self._ready.again
            faultpoint.reach('stream.laid-out')
        return self._length

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[memoryview]:
        """:raises StreamFailed: the image is not whole"""
        stream = self._take()
        try:
            given = 0
            for chunk in stream.chunks():
                yield chunk
                given += len(chunk)
                if self._progress is not None:
                    self._progress(given, self.length)
            self._finish(stream)
        except exception.Outgrown as ex:
            self._grow(ex)
            raise
        finally:
            stream.close()

    def store(self) -> None:
        """Have the image written into Ceph, by the stream process itself.

        :raises ImageRefused: Glance would refuse the image; see
            :mod:`nova_snapdriver.transfer.safety`
        :raises StreamFailed: the disk could not be read
        :raises DirectRefused: Ceph failed
        :raises VerifyFailed: Ceph gives something else than was written
        """
        stream = self._take()
        try:
            safety.check_raw(stream.first)
            for done in stream.written():
                if self._progress is not None:
                    self._progress(done, self.length)
            self._finish(stream)
        finally:
            stream.close()

    def _finish(self, stream: process.StreamProcess) -> None:
        self._request = stream.again
        self._meter.bytes_read += stream.bytes_read
        self.digest = stream.digest
        self.whole = True
        if self._finished is not None:
            self._finished(self.length, self.digest)

    def _grow(self, error: exception.Outgrown) -> None:
        """Have the next iteration leave more room, or not compress."""
        self._outgrown += 1
        self._length = None
        self._request = self._request.repeat(
            error.place if self._outgrown == 1 else 0)
        LOG.warning('The image outgrew its prediction (%(count)d) and is '
                    'begun again: %(error)s',
                    {'count': self._outgrown, 'error': error})

    def hash_again(self, algorithm: str) -> str | None:
        """Read the disk again, for another hash of the image that was sent.

        :raises StreamFailed: it could not be read
        """
        with self._started(dataclasses.replace(
                self._request, algorithm=algorithm)) as stream:
            given = 0
            for chunk in stream.chunks():
                given += len(chunk)
                if self._again is not None:
                    self._again(given, stream.length)
            self._meter.bytes_read += stream.bytes_read
            return stream.digest

    def _start(self) -> process.StreamProcess:
        return self._started(self._request)

    def _started(self, request: process.Request) -> process.StreamProcess:
        if self._cancelled:
            raise exception.StreamFailed(reason='it was cancelled')
        self._latest = self._open.enter_context(
            process.StreamProcess(request))
        return self._latest

    def _take(self) -> process.StreamProcess:
        """The stream that is laid out, and has not been read from."""
        self.prepare()
        stream, self._ready = self._ready, None
        assert stream is not None
        return stream

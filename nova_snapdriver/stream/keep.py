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

"""Keep the clusters that a survey has compressed until they are written.

In memory first, then in a temporary file. Clusters that do not fit are
compressed again.
"""

from collections.abc import Iterator
import os
import tempfile
import types
from typing import BinaryIO
from typing import Self

from nova_snapdriver.stream import writeback
from oslo_utils import units

_IN_MEMORY = 32 * units.Mi
_CHUNK = units.Mi


class Keep:
    """The first compressed clusters of a disk, one after the other.

    :param directory: for the temporary file, which takes what is beyond 32
        MiB; None for no file
    :param limit: maximum size of all that is kept, in bytes
    """

    def __init__(self, directory: str | None, limit: int) -> None:
        self._directory = directory
        self._limit = limit
        self._memory = bytearray()
        self._file: BinaryIO | None = None
        self._writeback: writeback.Writeback | None = None
        self._full = False
        self.clusters = 0
        self.length = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, exc_type: type[BaseException] | None,
                 exc: BaseException | None,
                 traceback: types.TracebackType | None) -> None:
        if self._writeback is not None:
            self._writeback.close()
        if self._file is not None:
            self._file.close()
            self._file = None

    def append(self, content: bytes) -> None:
        """Keep a cluster, unless one before it was not kept.

        :raises OSError: kept clusters could not be written to the disk
        """
        if self._full or self.length + len(content) > self._limit:
            self._full = True
            return
        if self._file is None and len(self._memory) < _IN_MEMORY:
            self._memory += content
        elif not self._written(content):
            self._full = True
            return
        self.clusters += 1
        self.length += len(content)

    def _written(self, content: bytes) -> bool:
        if self._directory is None:
            return False
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=self._directory,
                                                    buffering=0)
            count = os.write(self._file.fileno(), content)
        except OSError:
            return False                # no room, or no permission
        if self._writeback is None:
            self._writeback = writeback.Writeback(self._file.fileno())
        self._writeback.wrote(self.length - len(self._memory), count)
        # A short write ends what is kept, and the rest is not read.
        return count == len(content)

    def chunks(self) -> Iterator[memoryview]:
        """The kept bytes, in order. Once: the file is freed on the way.

        :raises OSError: they could not be written to the disk, or read
        """
        if self._writeback is not None:
            self._writeback.check()
        memory = memoryview(self._memory)
        for at in range(0, len(memory), _CHUNK):
            yield memory[at:at + _CHUNK]
        at, end = 0, self.length - len(memory)
        buffer = memoryview(bytearray(_CHUNK))
        while at < end:
            assert self._file is not None
            count = os.preadv(self._file.fileno(), [buffer], at)
            if not count:
                raise OSError('the kept clusters end at %d of %d bytes' %
                              (at, end))
            count = min(count, end - at)
            writeback.free(self._file.fileno(), at, count)
            yield buffer[:count]
            at += count

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

"""A stream process that is a program of the test's."""

import dataclasses
import sys

from nova_snapdriver.capture import export
from nova_snapdriver.transfer import process


@dataclasses.dataclass(frozen=True)
class Request:
    """A request whose program is told the place, the hash and more words."""

    program: str
    words: tuple[str, ...] = ()
    algorithm: str = 'sha256'
    compression: process.Compression = process.Compression('zstd')
    source: export.Export = export.Export('/nbd', '')
    target: process.Target | None = None

    def command(self):
        return [sys.executable, '-c', self.program,
                str(self.compression.place), self.algorithm, *self.words]

    repeat = process.Request.repeat

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

"""Split the time of a snapshot into phases, by nova-compute's log."""

import collections.abc
import dataclasses
import datetime
import re

TIME = re.compile(r'\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}')


@dataclasses.dataclass(frozen=True)
class Mark:
    """A phase, and the line of the log that ends it.

    Without a line, it ends when Glance has answered the upload.
    """

    phase: str
    line: str = ''


OURS = (Mark('capture', r'Snapshot captured: '),
        # The disk is mapped and, for compression, sampled.
        Mark('layout', r'Image laid out: '),
        Mark('upload'),
        Mark('verify', r'Snapshot uploaded and verified: '))
STOCK = (Mark('copy', r'Running cmd \(subprocess\): .*qemu-img convert '),
         Mark('convert', r'Snapshot extracted, beginning image upload'),
         Mark('upload'))
# As a plot stacks them. `read` is of contenders that only read.
NAMES = ('capture', 'copy', 'layout', 'convert', 'read', 'upload', 'verify')


def split(lines: collections.abc.Iterable[str],
          marks: collections.abc.Iterable[Mark], began: float,
          stored: float) -> dict[str, float]:
    """Return the seconds of each phase whose line is there.

    :param lines: of nova-compute's log
    :param began: when the snapshot was requested, by time.time()
    :param stored: when Glance had answered the upload
    """
    known = [(when, line) for line in lines
             if (when := _when(line)) is not None]
    found, before = {}, began
    for mark in marks:
        ended = _ended(known, mark, stored)
        if ended is not None:
            found[mark.phase] = round(max(0.0, ended - before), 3)
            before = max(before, ended)
    return found


def _ended(known: list[tuple[float, str]], mark: Mark,
           stored: float) -> float | None:
    if not mark.line:
        return stored
    return next((when for when, line in known
                 if re.search(mark.line, line)), None)


def _when(line: str) -> float | None:
    """Return the time of a line, as time.time() has it."""
    match = TIME.match(line)
    if match is None:
        return None
    return datetime.datetime.fromisoformat(match[0]).timestamp()

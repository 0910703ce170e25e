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

"""List the snapshots of this host that run, and those that were abandoned.

Those of nova-compute, and of "nova-snapdriver snapshot". Abandoned ones are
what a crash left: the next start of nova-compute undoes its own, and
"nova-snapdriver recover" all of them. Exit status 1: there are entries that
are not for this host, or make no sense.
"""

import argparse
from collections.abc import Iterator
import contextlib
import dataclasses
import json
import os

from nova_snapdriver.cmd import conffiles
from nova_snapdriver.cmd import locally
from nova_snapdriver import exception
from nova_snapdriver import journal

_HEADINGS = ('STATE', 'INSTANCE', 'IMAGE', 'PATH', 'AGE', 'BYTES', 'PERCENT')
_ROW = '{:10} {:36} {:36} {:6} {:>8} {:>14} {:>7}'


@dataclasses.dataclass(frozen=True)
class Row:
    """One snapshot.

    :param instance: UUID of the instance, or of a domain that is none of
        Nova's
    :param image: UUID of the image, or the path of a file that is not whole
    :param path: live, mirror, cold, …; empty before that is planned
    :param done: bytes that were sent; ``None`` if not known
    """

    state: str
    instance: str
    image: str
    path: str
    age_seconds: int
    done: int | None = None
    length: int | None = None

    def __str__(self) -> str:
        size, percent = '-', '-'
        if self.done is not None and self.length is not None:
            size = str(self.done)
            percent = '%d%%' % (100 * self.done // max(1, self.length))
        return _ROW.format(self.state, self.instance, self.image,
                           self.path or '-', '%d s' % self.age_seconds, size,
                           percent)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    conffiles.add_arguments(parser)
    locally.add_journal(parser)
    parser.add_argument('--json', action='store_true',
                        help='print an array of objects')


def run(args: argparse.Namespace) -> int:
    journals = [one for one in locally.journals(args) if one is not None]
    status = max(map(conffiles.report_unusable, journals))
    rows = [row for entries in journals for row in _rows(entries)]
    if args.json:
        print(json.dumps([dataclasses.asdict(row) for row in rows], indent=2))
        return status
    print(_ROW.format(*_HEADINGS).rstrip())
    for row in rows:
        print(row)
    return status


def _rows(entries: journal.Journal) -> Iterator[Row]:
    for record in entries.running():
        yield _row('running', record)
    for record in entries.abandoned():
        with contextlib.closing(record):
            yield _row('abandoned', record)


def _row(state: str, record: journal.Record) -> Row:
    entry, sent = record.entry, record.sent() or (None, None)
    image = entry.image
    with contextlib.suppress(exception.JournalUnusable):
        if os.path.isabs(record.target):
            image = record.target
    return Row(state, entry.instance, image, _path(record),
               int(entry.age.total_seconds()), *sent)


def _path(record: journal.Record) -> str:
    try:
        return record.planned.path
    except exception.JournalUnusable:
        return '?'

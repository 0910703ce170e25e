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
from collections.abc import Sequence
import contextlib
import dataclasses
import json
import os
import time
from typing import Any

import prettytable

from nova_snapdriver.cmd import base
from nova_snapdriver.cmd import conffiles
from nova_snapdriver.cmd import locally
from nova_snapdriver import exception
from nova_snapdriver import journal

_HEADINGS = ('STATE', 'INSTANCE', 'IMAGE', 'PATH', 'AGE', 'BYTES', 'PERCENT')
_RIGHT = ('AGE', 'BYTES', 'PERCENT')
_LONG = ('INSTANCE', 'IMAGE')
_WATCH_SECONDS = 1
_BAR_WIDTH = 10
_PADDING = 2


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

    @property
    def percent(self) -> int | None:
        if self.done is None or self.length is None:
            return None
        return 100 * self.done // max(1, self.length)

    @property
    def words(self) -> tuple[str, ...]:
        """What there is to say under the headings."""
        percent = self.percent
        return (self.state, self.instance, self.image, self.path or '-',
                '%d s' % self.age_seconds,
                '-' if percent is None else str(self.done),
                '-' if percent is None else '%d%%' % percent)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    conffiles.add_arguments(parser)
    locally.add_journal(parser)
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument('--json', action='store_true',
                       help='print an array of objects')
    shape.add_argument('--watch', action='store_true',
                       help='show them with a bar each, brought up to date '
                            'every second until Ctrl-C')


def run(args: argparse.Namespace) -> int:
    journals = [one for one in locally.journals(args) if one is not None]
    status = max(map(conffiles.report_unusable, journals))
    if args.watch:
        _watch(journals)
        return status
    rows = _all_rows(journals)
    if args.json:
        print(json.dumps([dataclasses.asdict(row) for row in rows], indent=2))
    else:
        print(_table(rows))
    return status


def _table(rows: Sequence[Row]) -> str:
    table = prettytable.PrettyTable(_HEADINGS)
    table.border = False
    table.left_padding_width, table.right_padding_width = 0, _PADDING
    table.align = 'l'
    for name in _RIGHT:
        table.align[name] = 'r'
    for row in rows:
        table.add_row(row.words)
    return '\n'.join(map(str.rstrip, table.get_string().splitlines()))


def _watch(journals: Sequence[journal.Journal]) -> None:
    try:
        # Late: Nova's own requirements do not bring it.
        from rich import live as rich_live
    except ImportError as ex:
        raise base.CommandError('--watch needs rich: %s' % ex) from ex
    with (contextlib.suppress(KeyboardInterrupt),
          rich_live.Live(auto_refresh=False) as shown):
        while True:
            shown.update(_live_table(_all_rows(journals)), refresh=True)
            time.sleep(_WATCH_SECONDS)


def _live_table(rows: Sequence[Row]) -> Any:
    """A table of rich's, with a bar for each snapshot."""
    from rich import progress_bar
    from rich import table as rich_table
    table = rich_table.Table(box=None, expand=True, padding=(0, 1, 0, 0))
    for name in _HEADINGS:
        # In a narrow terminal the UUIDs take two lines.
        table.add_column(name, justify='right' if name in _RIGHT else 'left',
                         overflow='fold', no_wrap=name not in _LONG)
    table.add_column('PROGRESS', width=_BAR_WIDTH)
    for row in rows:
        table.add_row(*row.words, progress_bar.ProgressBar(
            completed=row.percent or 0, width=_BAR_WIDTH))
    return table


def _all_rows(journals: Sequence[journal.Journal]) -> list[Row]:
    return [row for entries in journals for row in _rows(entries)]


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

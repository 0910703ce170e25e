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

Abandoned ones are what a crash of nova-compute left: its next start undoes
them, or "nova-snapdriver recover" does. Exit status 1: there are entries that
are not for this host, or make no sense.
"""

import argparse
import contextlib

from nova_snapdriver.cmd import conffiles
from nova_snapdriver import exception
from nova_snapdriver import journal

_ROW = '{:10} {:36} {:36} {:6} {:>8} {:>14} {:>7}'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    conffiles.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    entries = conffiles.load(args)
    status = conffiles.report_unusable(entries)
    print(_ROW.format('STATE', 'INSTANCE', 'IMAGE', 'PATH', 'AGE', 'BYTES',
                      'PERCENT').rstrip())
    for record in entries.running():
        print(_row('running', record))
    for record in entries.abandoned():
        with contextlib.closing(record):
            print(_row('abandoned', record))
    return status


def _path(record: journal.Record) -> str:
    try:
        return record.planned.path or '-'
    except exception.JournalUnusable:
        return '?'


def _row(state: str, record: journal.Record) -> str:
    entry, sent = record.entry, record.sent()
    size, percent = '-', '-'
    if sent is not None:
        size = str(sent[0])
        percent = '%d%%' % (100 * sent[0] // max(1, sent[1]))
    return _ROW.format(state, entry.instance, entry.image,
                       _path(record),
                       '%d s' % entry.age.total_seconds(), size, percent)

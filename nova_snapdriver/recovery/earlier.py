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

"""An earlier snapshot that has not left the guest as it was."""

import contextlib

from nova_snapdriver import exception
from nova_snapdriver import journal


def refuse(entries: journal.Journal, instance: str) -> None:
    """Check that no earlier snapshot of a server still has its guest.

    To freeze or to suspend it again would hide from the recovery what is to
    be undone: a suspend gives the guest another QEMU than the one noted.

    :param instance: its UUID
    :raises CaptureFailed: one has; nothing was done to the guest
    :raises JournalUnusable: the journal cannot be read
    """
    for record, _ in entries.records():
        with contextlib.closing(record):
            if record.entry.instance == instance:
                _refuse(record)


def _refuse(record: journal.Record) -> None:
    marks = [mark.name.lower() for mark in journal.Mark
             if record.marked(mark) is not None]
    if marks:
        raise exception.CaptureFailed(
            reason='the earlier snapshot %s has left the guest %s, and that '
                   'is not undone yet: it is tried again by itself, or run '
                   '"nova-snapdriver recover" on this host' %
                   (record.entry.image, ' and '.join(marks)))

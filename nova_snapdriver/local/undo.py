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

"""After a crash of "nova-snapdriver snapshot": undo what it left.

The journal of these snapshots is one of its own, which nova-compute does not
read: its recovery would ask for a server in Nova's database, and no request
of Nova's made them. Only what they did themselves is undone, and they never
stop or suspend a guest, so there is nothing to ask that database.
"""

from collections.abc import Callable
import os
import stat

from nova_snapdriver import exception
from nova_snapdriver import journal
from nova_snapdriver.local import cloud
from nova_snapdriver.recovery import undo
from nova_snapdriver.transfer import file as snap_file
from nova_snapdriver.transfer import verify

_Step = Callable[[], list[str]]


class Recovery(undo.Recovery):
    """Undoes abandoned snapshots that were taken without Nova."""

    def _undoing(self, record: journal.Record) -> undo.Undoing:
        return _Undoing(record, self._tools, self._dry_run)


class _Undoing(undo.Undoing):
    """The steps for one snapshot; each gives what it did, in words."""

    def steps(self) -> tuple[_Step, ...]:
        return (self._end_job, self._resume_guest, self._end_copy,
                self._thaw_guest, self._remove_files, self._remove_target)

    def _why_not_resumed(self) -> str | None:
        """It is resumed: our scratch file has paused it, and nobody else."""
        return None

    def _why_not_here(self) -> str | None:
        return None

    def _remove_target(self) -> list[str]:
        target = self._record.target
        if not target:
            return []                   # nothing was made yet
        if target == cloud.TARGET:
            return self._remove_image()
        return self._remove_partial(target)

    def _remove_partial(self, path: str) -> list[str]:
        if not snap_file.is_partial(path):
            raise exception.JournalUnusable(
                reason='%s is no file of a snapshot' % path)
        try:
            found = os.lstat(path)
        except FileNotFoundError:
            return []
        if not stat.S_ISREG(found.st_mode):
            raise exception.JournalUnusable(
                reason='%s has been exchanged' % path)
        self._unless_dry(os.unlink, path)
        return ['removed %s' % path]

    def _clear_progress(self) -> None:
        """Nova's API shows none of it."""

    def _delete_unfinished(self) -> bool:
        return cloud.delete_unfinished(self._entry.image, self._arrived)

    def _arrived(self, stored: dict[str, object]) -> bool:
        return verify.arrived(stored, self._record.whole)

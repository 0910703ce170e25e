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

"""Check the space in the scratch directory.

The operator's limits apply to all that a snapshot writes there: the scratch
file of a backup job, copies of a disk, compressed clusters, and what is read
ahead.
"""

import dataclasses
import os
from typing import Any

from oslo_utils import units

from nova_snapdriver.capture import workspace
from nova_snapdriver import exception

# Bytes of data for each byte of a qcow2 file's tables, rounded down; and an
# allowance for its header.
_TABLES = 4096
_HEADER = units.Mi


@dataclasses.dataclass(frozen=True)
class Limits:
    """The operator's limits.

    :param reserve: [snapdriver] scratch_reserve, in bytes
    :param limit: [snapdriver] scratch_limit, in bytes; 0 means no limit
    :param hurry: [snapdriver] read_ahead_threshold, in bytes; 0 means a share
        of the available space
    """

    reserve: int
    limit: int
    hurry: int = 0


def limits(conf: Any) -> Limits:
    """Read the limits from nova.conf."""
    return Limits(conf.snapdriver.scratch_reserve * units.Mi,
                  conf.snapdriver.scratch_limit * units.Mi,
                  conf.snapdriver.read_ahead_threshold * units.Mi)


def check(place: workspace.Workspace, limits: Limits) -> None:
    """Check that the reserve is free, before anything is done.

    :raises ScratchExhausted: it is not
    """
    reason = shortage(os.path.dirname(place.path), limits)
    if reason:
        raise exception.ScratchExhausted(
            reason='it was not begun, as ' + reason)


def require(place: workspace.Workspace, limits: Limits, data: int) -> None:
    """Check that there is space for a copy of a disk, before it is made.

    :param data: maximum size of the data in the copy, in bytes
    :raises ScratchExhausted: there is not
    """
    needed = data + data // _TABLES + _HEADER
    if limits.limit and needed > limits.limit:
        raise exception.ScratchExhausted(
            reason='it was not begun, as a copy of the disk may need %d MiB, '
                   'more than [snapdriver] scratch_limit' %
                   (needed // units.Mi + 1))
    check(place, dataclasses.replace(limits, reserve=limits.reserve + needed))


def spare(place: workspace.Workspace, limits: Limits) -> int:
    """Bytes that may be used for data that only save time.

    Half of what is free beyond the reserve: the other half is for what guests
    overwrite, and for other snapshots.
    """
    return max(0, free(os.path.dirname(place.path)) - limits.reserve) // 2


def shortage(directory: str, limits: Limits) -> str | None:
    """Say that less than the reserve is free; ``None`` if it is free."""
    left = free(directory)
    if left >= limits.reserve:
        return None
    return ('%s has %d MiB left, less than %d MiB, which is [snapdriver] '
            'scratch_reserve and what a copy of the disk may need' %
            (directory, left // units.Mi, limits.reserve // units.Mi))


def free(directory: str) -> int:
    """Free space in the file system of a directory, in bytes."""
    found = os.statvfs(directory)
    return found.f_bavail * found.f_frsize

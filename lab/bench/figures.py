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

"""What the benchmark found: rows, medians, ratios."""

import collections.abc
import dataclasses
import math
import statistics

OURS = ('plain', 'zstd', 'zlib')
FLOOR, STOCK, IDLE = 'curl', 'stock', 'idle'


@dataclasses.dataclass(frozen=True)
class Row:
    """One run of one contender on one disk.

    What a contender does not have, or what cannot be seen, is None.
    """

    disk: str
    contender: str
    number: int = 0
    #: From the request until Glance has answered the upload.
    seconds: float | None = None
    #: In seconds, by their names; the last ones may be after that.
    phases: dict[str, float] = dataclasses.field(default_factory=dict)
    #: Meanwhile, by whose they are. QEMU's are those of the guest, too.
    cpu_seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    #: Of the largest process that was begun for it.
    memory_peak_bytes: int | None = None
    bytes_read: int | None = None
    bytes_sent: int | None = None
    #: All of what lay on the local disk at once.
    staging_peak_bytes: int | None = None
    #: Without QEMU's scratch file.
    staged_bytes: int | None = None
    freeze_seconds: float | None = None
    write_gap_p50_seconds: float | None = None
    write_gap_p99_seconds: float | None = None
    write_gap_longest_seconds: float | None = None
    #: Why there is nothing else in it: it failed, or cannot be run here.
    problem: str | None = None
    missing: str | None = None
    write_gaps: tuple[float, ...] = dataclasses.field(
        default=(), repr=False)

    def as_json(self) -> dict[str, object]:
        """All but the single gaps."""
        found = dataclasses.asdict(self)
        del found['write_gaps']
        return found


Rows = collections.abc.Sequence[Row]


def percentile(values: collections.abc.Iterable[float],
               percent: float) -> float | None:
    """The value that so many percent do not exceed; one that occurs."""
    known = sorted(values)
    if not known:
        return None
    return known[max(0, math.ceil(len(known) * percent / 100) - 1)]


def with_gaps(row: Row, gaps: tuple[float, ...]) -> Row:
    """A row with the times between two writes of the guest."""
    return dataclasses.replace(
        row, write_gaps=gaps, write_gap_p50_seconds=percentile(gaps, 50),
        write_gap_p99_seconds=percentile(gaps, 99),
        write_gap_longest_seconds=max(gaps, default=None))


def median(rows: Rows, field: str) -> float | None:
    """The median of a field in the rows that have it."""
    values = [value for row in rows
              if (value := getattr(row, field)) is not None]
    return float(statistics.median(values)) if values else None


def median_phases(rows: Rows) -> dict[str, float]:
    """The median of each phase."""
    names = dict.fromkeys(name for row in rows for name in row.phases)
    return {name: statistics.median([row.phases[name] for row in rows
                                     if name in row.phases])
            for name in names}


def disks(rows: Rows) -> list[str]:
    """The names of the disks, in their order."""
    return list(dict.fromkeys(row.disk for row in rows))


def of(rows: Rows, disk: str | None, *contenders: str) -> list[Row]:
    """The rows of a disk and some contenders; all contenders for none."""
    return [row for row in rows if row.disk == disk and
            (not contenders or row.contender in contenders)]


def first(rows: Rows, kind: str) -> str | None:
    """The first disk of a kind; the ratios are about it."""
    return next((name for name in disks(rows)
                 if name.split()[0] == kind), None)


def quotient(one: float | None, other: float | None) -> float | None:
    return round(one / other, 3) if one is not None and other else None


def _seconds(rows: Rows, disk: str | None, one: str,
             other: str) -> float | None:
    """How much longer one contender takes than another; below 1 is less."""
    return quotient(median(of(rows, disk, one), 'seconds'),
                    median(of(rows, disk, other), 'seconds'))


def _most(rows: Rows, field: str, contenders: tuple[str, ...]) -> int | None:
    return max((value for row in rows if row.contender in contenders
                if (value := getattr(row, field)) is not None), default=None)


def _p99(rows: Rows) -> float | None:
    return percentile([gap for row in rows for gap in row.write_gaps], 99)


def ratios(rows: Rows) -> dict[str, float | None]:
    """Ours by theirs: in wall seconds, so that less is better.

    `read_vs_nbdcopy` is of throughputs: more is better. Plain is about the
    disk with random data, which nobody can make less of; zstd and zlib are
    about the tree, and their floor is `curl` with the same tree, not
    compressed. None where one of the two was not run.
    """
    random, tree = first(rows, 'random'), first(rows, 'tree')
    gaps = quotient(_p99(of(rows, random, 'plain')),
                    _p99(of(rows, random, IDLE)))
    return {
        'plain_vs_floor': _seconds(rows, random, 'plain', FLOOR),
        'plain_vs_stock': _seconds(rows, random, 'plain', STOCK),
        'zstd_vs_floor': _seconds(rows, tree, 'zstd', FLOOR),
        'zstd_vs_stock': _seconds(rows, tree, 'zstd', STOCK),
        'zlib_vs_stock_compressed': _seconds(rows, tree, 'zlib',
                                             'stock-compressed'),
        'read_vs_nbdcopy': _seconds(rows, random, 'nbdcopy', 'read'),
        'staging_bytes': _most(rows, 'staged_bytes', ('plain',)),
        'peak_memory_bytes': _most(rows, 'memory_peak_bytes', OURS),
        'guest_gap_p99_vs_idle': gaps}


def medians(rows: Rows) -> list[dict[str, object]]:
    """For each disk and contender what its runs have in common."""
    found: list[dict[str, object]] = []
    for disk in disks(rows):
        names = dict.fromkeys(row.contender for row in of(rows, disk))
        for name in names:
            some = of(rows, disk, name)
            seconds = median(some, 'seconds')
            found.append({
                'disk': disk, 'contender': name,
                'runs': sum(row.seconds is not None for row in some),
                'seconds': seconds, 'phases': median_phases(some),
                'vs_floor': _seconds(rows, disk, name, FLOOR),
                'vs_stock': _seconds(rows, disk, name, STOCK)})
    return found

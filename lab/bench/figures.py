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

"""The results of the benchmark: rows, medians, ratios."""

import collections.abc
import dataclasses
import math
import statistics

OURS = ('plain', 'zstd', 'zlib')
FLOOR, STOCK, IDLE = 'curl', 'stock', 'idle'
# Ends the names of disks whose guest does nothing.
PAUSED = ', guest paused'


@dataclasses.dataclass(frozen=True)
class Row:
    """A run of a contender on a disk; None is unknown, or does not apply."""

    disk: str
    contender: str
    number: int = 0
    #: From the request to Glance's answer to the upload.
    seconds: float | None = None
    #: Seconds, by name; the last phases may come after that.
    phases: dict[str, float] = dataclasses.field(default_factory=dict)
    #: Meanwhile, by program; QEMU's are the guest's, too.
    cpu_seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    #: Of the largest process that it has started.
    memory_peak_bytes: int | None = None
    bytes_read: int | None = None
    bytes_sent: int | None = None
    #: On the local disk at once.
    staging_peak_bytes: int | None = None
    #: The same without QEMU's scratch file.
    staged_bytes: int | None = None
    freeze_seconds: float | None = None
    write_gap_p50_seconds: float | None = None
    write_gap_p99_seconds: float | None = None
    write_gap_longest_seconds: float | None = None
    #: Why there are no figures: it failed, or cannot run here.
    problem: str | None = None
    missing: str | None = None
    write_gaps: tuple[float, ...] = dataclasses.field(
        default=(), repr=False)

    def as_json(self) -> dict[str, object]:
        """Return everything but the single gaps."""
        found = dataclasses.asdict(self)
        del found['write_gaps']
        return found


Rows = collections.abc.Sequence[Row]


def percentile(values: collections.abc.Iterable[float],
               percent: float) -> float | None:
    """Return the value that so many percent do not exceed."""
    known = sorted(values)
    if not known:
        return None
    return known[max(0, math.ceil(len(known) * percent / 100) - 1)]


def with_gaps(row: Row, gaps: tuple[float, ...]) -> Row:
    """Return a row with the times between the guest's writes."""
    return dataclasses.replace(
        row, write_gaps=gaps, write_gap_p50_seconds=percentile(gaps, 50),
        write_gap_p99_seconds=percentile(gaps, 99),
        write_gap_longest_seconds=max(gaps, default=None))


def median(rows: Rows, field: str) -> float | None:
    """Return the median of a field in the rows that have it."""
    values = [value for row in rows
              if (value := getattr(row, field)) is not None]
    return float(statistics.median(values)) if values else None


def median_phases(rows: Rows) -> dict[str, float]:
    """Return the median of each phase."""
    names = dict.fromkeys(name for row in rows for name in row.phases)
    return {name: statistics.median([row.phases[name] for row in rows
                                     if name in row.phases])
            for name in names}


def disks(rows: Rows) -> list[str]:
    """Return the names of the disks, in order."""
    return list(dict.fromkeys(row.disk for row in rows))


def of(rows: Rows, disk: str | None, *contenders: str) -> list[Row]:
    """Return the rows of a disk, of some contenders or of all."""
    return [row for row in rows if row.disk == disk and
            (not contenders or row.contender in contenders)]


def first(rows: Rows, kind: str, busy: bool = True) -> str | None:
    """Return the first disk of a kind, which the ratios are of."""
    return next((name for name in disks(rows) if name.split()[0] == kind
                 and name.endswith(PAUSED) != busy), None)


def having(rows: Rows, contender: str) -> list[str]:
    """Return the disks that a contender was run on, in order."""
    return disks([row for row in rows if row.contender == contender])


def quotient(one: float | None, other: float | None) -> float | None:
    return round(one / other, 3) if one is not None and other else None


def _seconds(rows: Rows, disk: str | None, one: str,
             other: str) -> float | None:
    """Return by which factor a contender takes longer than another."""
    return quotient(median(of(rows, disk, one), 'seconds'),
                    median(of(rows, disk, other), 'seconds'))


def _most(rows: Rows, field: str, contenders: tuple[str, ...]) -> int | None:
    return max((value for row in rows if row.contender in contenders
                if (value := getattr(row, field)) is not None), default=None)


def _p99(rows: Rows) -> float | None:
    return percentile([gap for row in rows for gap in row.write_gaps], 99)


def ratios(rows: Rows) -> dict[str, float | None]:
    """Return ours divided by theirs, in wall seconds: less is better.

    `read_vs_nbdcopy` is of throughputs: more is better. Plain is compared on
    random data, which do not compress; zstd and zlib on the tree, with `curl`
    of the same tree, uncompressed, while the guest writes and while it is
    paused. None where one of the two was not run.
    """
    random, tree = first(rows, 'random'), first(rows, 'tree')
    paused = first(rows, 'tree', busy=False)
    gaps = quotient(_p99(of(rows, random, 'plain')),
                    _p99(of(rows, random, IDLE)))
    return {
        'plain_vs_floor': _seconds(rows, random, 'plain', FLOOR),
        'plain_vs_stock': _seconds(rows, random, 'plain', STOCK),
        'zstd_vs_plain_random': _seconds(rows, random, 'zstd', 'plain'),
        'zstd_vs_floor': _seconds(rows, tree, 'zstd', FLOOR),
        'zstd_vs_floor_paused': _seconds(rows, paused, 'zstd', FLOOR),
        'zstd_vs_stock': _seconds(rows, tree, 'zstd', STOCK),
        'zlib_vs_stock_compressed': _seconds(rows, tree, 'zlib',
                                             'stock-compressed'),
        'read_vs_nbdcopy': _seconds(rows, random, 'nbdcopy', 'read'),
        **_into_ceph(rows),
        'staging_bytes': _most(rows, 'staged_bytes', OURS),
        'peak_memory_bytes': _most(rows, 'memory_peak_bytes', OURS),
        'guest_gap_p99_vs_idle': gaps}


def _into_ceph(rows: Rows) -> dict[str, float | None]:
    """Return the ratios of raw images in Ceph; none without these."""
    names = having(rows, 'ceph-direct')
    if not names:
        return {}
    disk = names[0]
    return {
        'direct_vs_curl': _seconds(rows, disk, 'ceph-direct', 'ceph-curl'),
        'through_glance_vs_curl': _seconds(rows, disk, 'ceph-glance',
                                           'ceph-curl'),
        'direct_vs_convert': _seconds(rows, disk, 'ceph-direct',
                                      'ceph-convert'),
        'write_vs_convert': _seconds(rows, disk, 'ceph-write',
                                     'ceph-convert'),
        'direct_by_virtual_size': quotient(*(
            median(of(rows, name, 'ceph-direct'), 'seconds')
            for name in (names[-1], disk)))}


def medians(rows: Rows) -> list[dict[str, object]]:
    """Return the medians of each contender on each disk."""
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

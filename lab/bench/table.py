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

"""Format the benchmark as tables, for a terminal or the documentation."""

import collections.abc
import dataclasses

from lab.bench import cephways
from lab.bench import figures
from lab.bench import scaling
from lab.openstack import guest

RATIOS = {
    'plain_vs_floor': 'plain ÷ curl, random data',
    'plain_vs_stock': "plain ÷ Nova's own, random data",
    'zstd_vs_plain_random': 'zstd ÷ plain, random data',
    'zstd_vs_floor': 'zstd ÷ curl with the plain image, tree',
    'zstd_vs_floor_paused': 'the same while the guest is paused',
    'zstd_vs_stock': "zstd ÷ Nova's own, tree",
    'zlib_vs_stock_compressed':
        "zlib ÷ Nova's own with snapshot_compression, tree",
    'read_vs_nbdcopy': 'throughput of reading alone ÷ that of nbdcopy',
    'staging_bytes': 'staged beside the scratch file, at most, bytes',
    'peak_memory_bytes': 'memory of the stream process, at most, bytes',
    'direct_vs_curl': 'destination = rbd ÷ curl of the raw image, into Ceph',
    'through_glance_vs_curl': 'through Glance ÷ curl, raw, into Ceph',
    'direct_vs_convert': 'destination = rbd ÷ qemu-img convert',
    'write_vs_convert': 'writing and verifying alone ÷ qemu-img convert',
    'direct_by_virtual_size': 'destination = rbd, largest ÷ smallest disk',
    'guest_gap_p99_vs_idle':
        "99th percentile of the guest's write gaps ÷ idle",
}
# Not a hyphen, which begins a list in RST.
NOTHING = '–'
AXES = {'servers': '{} servers at once', 'data': '{} MiB of data',
        'virtual': '{} GiB, as good as empty'}
# By core. The start of the lab's own services makes less.
BUSY_LOAD = 2.0
GROWTH = ['', '', 'time, s', 'memory, MiB']
MACHINE = (
    '{cpu}, {cores} cores, {memory_gib} GiB; {system}, Linux {kernel},'
    ' {file_system}; guests by {virt_type}; QEMU {qemu}, libvirt {libvirt},'
    ' Nova {nova}, Glance {glance}, Python {python}. Load before the run:'
    ' {load_before:.1f}.')


def _number(rows: figures.Rows, field: str, unit: float = 1.0,
            form: str = '.2f') -> str:
    value = figures.median(rows, field)
    return NOTHING if value is None else format(value / unit, form)


def _seconds(rows: figures.Rows) -> str:
    """Format the median, with the least and the most."""
    known = [row.seconds for row in rows if row.seconds is not None]
    if not known:
        return NOTHING
    if len(known) == 1:
        return f'{known[0]:.1f}'
    return (f'{figures.median(rows, "seconds"):.1f} ({min(known):.1f}'
            f'–{max(known):.1f})')


def _cpu(rows: figures.Rows) -> str:
    """Format the medians of nova-compute or tool, QEMU and Glance."""
    found = []
    for whose in (('nova', 'tool'), ('qemu',), ('glance',)):
        sums = sorted(sum(row.cpu_seconds.get(name, 0.0) for name in whose)
                      for row in rows if row.cpu_seconds)
        found.append(f'{sums[len(sums) // 2]:.1f}' if sums else NOTHING)
    return ' / '.join(found)


def _gaps(rows: figures.Rows) -> str:
    return ' / '.join(_number(rows, f'write_gap_{name}_seconds')
                      for name in ('p50', 'p99', 'longest'))


@dataclasses.dataclass(frozen=True)
class Column:
    """A heading, and what formats the runs of a contender."""

    title: str
    cell: collections.abc.Callable[[figures.Rows], str]


def _mib(field: str, form: str = '.0f') -> collections.abc.Callable[
        [figures.Rows], str]:
    return lambda rows: _number(rows, field, guest.MI, form)


COLUMNS = (
    Column('time, s', _seconds),
    Column('CPU, s: nova or tool / QEMU / Glance', _cpu),
    Column('memory, MiB', _mib('memory_peak_bytes')),
    Column('read, MiB', _mib('bytes_read')),
    Column('sent, MiB', _mib('bytes_sent')),
    Column('staged, MiB', _mib('staging_peak_bytes', '.1f')),
    Column('freeze, s', lambda rows: _number(rows, 'freeze_seconds')),
    Column('write gaps, s: 50% / 99% / longest', _gaps))


def title(contender: str) -> str:
    known = cephways.ALL.get(contender)
    return known.title if known else contender


def cells(rows: figures.Rows, disk: str) -> list[list[str]]:
    """Return a line for each contender: its title, and the columns."""
    lines = []
    names = dict.fromkeys(row.contender for row in figures.of(rows, disk))
    for name in names:
        some = figures.of(rows, disk, name)
        lines.append(
            [title(name), *(column.cell(some) for column in COLUMNS)])
    return lines


def points(found: scaling.Points) -> list[list[str]]:
    """Return a line for each snapshot of how the time grows."""
    return [[AXES[one.axis].format(one.size), title(one.contender),
             f'{one.seconds:.1f}',
             f'{one.memory_peak_bytes / guest.MI:.0f}'
             if one.memory_peak_bytes else NOTHING] for one in found]


def _aligned(lines: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*lines)]
    return ['  '.join(cell.ljust(width)
                      for cell, width in zip(line, widths)).rstrip()
            for line in lines]


def text(rows: figures.Rows, grown: scaling.Points = ()) -> str:
    """Return the tables for a terminal, and what has failed."""
    found: list[str] = []
    heading = ['', *(column.title for column in COLUMNS)]
    for disk in figures.disks(rows):
        found += ['', disk, *_aligned([heading, *cells(rows, disk)])]
    if grown:
        found += ['', *_aligned([GROWTH, *points(grown)])]
    found += [f'{row.disk}: {row.contender}: {row.problem or row.missing}'
              for row in rows if row.problem or row.missing]
    return '\n'.join(found) + '\n'


def rst(rows: figures.Rows, machine: dict[str, object],
        grown: scaling.Points = ()) -> str:
    """Return the tables as RST, with the ratios."""
    found = [MACHINE.format(**machine), '']
    if _is_busy(machine):
        found += ['Other programs kept this machine busy meanwhile: the'
                  ' figures show what is measured, and are no measure.', '']
    for disk in figures.disks(rows):
        runs = max(row.number for row in figures.of(rows, disk))
        found += _list_table(
            f'{disk[0].upper()}{disk[1:]}: medians of {runs}',
            [['', *(column.title for column in COLUMNS)],
             *cells(rows, disk)])
    ratios = [[RATIOS[name], NOTHING if value is None else f'{value:.10g}']
              for name, value in figures.ratios(rows).items()]
    found += _list_table('Ratios of the medians', [['', ''], *ratios])
    if grown:
        found += _list_table('How the time grows',
                             [GROWTH, *points(grown)])
    return '\n'.join(found)


def _is_busy(machine: dict[str, object]) -> bool:
    load, cores = machine['load_before'], machine['cores']
    return float(str(load)) > BUSY_LOAD * int(str(cores))


def _list_table(title: str, lines: list[list[str]]) -> list[str]:
    found = [f'.. list-table:: {title}', '   :header-rows: 1', '']
    for line in lines:
        for number, cell in enumerate(line):
            mark = '*' if number == 0 else ' '
            found.append(f'   {mark} - {cell}'.rstrip())
    return [*found, '']

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

"""The disks of the benchmark, and how they are built.

Each begins with the small guest's file system, which the guest boots from and
writes to. The data are behind it.
"""

import collections.abc
import dataclasses
import itertools
import os
import pathlib
import typing

from lab.bench import figures
from lab.openstack import guest
from lab.openstack import process
from lab.openstack import settings

MI = guest.MI
PIECE_BYTES = MI
# Files begin at a block of the file system.
BLOCK_BYTES = 4096
# On the sparse disk, one cluster in four has data.
EXTENT_BYTES = 64 << 10
STRIDE_BYTES = 4 * EXTENT_BYTES
CONVERT_TIMEOUT = 1800.0

PLAIN = ('plain', 'zstd', 'curl', 'convert', 'stock')
READING = ('read', 'nbdcopy', 'virtnbdbackup')
COMPRESSED = ('plain', 'zstd', 'zlib', 'curl', 'convert', 'stock',
              'stock-compressed')
# Into Ceph; the latter read or send the zeros, too.
DATA_ALONE = ('ceph-direct', 'ceph-write', 'ceph-convert')
ALL_ZEROS = ('ceph-import', 'ceph-glance', 'ceph-curl', 'ceph-stock')


@dataclasses.dataclass(frozen=True)
class Disk:
    """A disk, and its contenders."""

    #: random, tree or sparse.
    kind: str
    disk_format: str
    #: Of data, besides the guest's 44 MiB.
    mib: int
    contenders: tuple[str, ...]
    #: At most: on a large disk each takes minutes.
    runs: int = 100
    #: Its guest runs and writes all the time; otherwise it is paused.
    busy: bool = True
    #: Of the virtual size; 0 for no more than the data need.
    gib: int = 0
    #: The images are raw, and in Ceph.
    ceph: bool = False

    @property
    def name(self) -> str:
        size = (f'{self.mib // 1024} GiB' if self.mib >= 1024
                else f'{self.mib} MiB')
        return (f'{self.kind} {self.disk_format} {size}'
                + (f' in {self.gib} GiB' if self.gib else '')
                + (', into Ceph' if self.ceph else '')
                + ('' if self.busy else figures.PAUSED))

    @property
    def bytes(self) -> int:
        """Return the size that the guest sees."""
        return self.gib << 30 or self.data_bytes

    @property
    def data_bytes(self) -> int:
        """Return the size up to the end of the data."""
        spread = (STRIDE_BYTES // EXTENT_BYTES if self.kind == 'sparse'
                  else 1)
        return guest.SMALL_DISK_BYTES + self.mib * MI * spread


QUICK = (Disk('random', 'qcow2', 32, PLAIN + ('read', 'nbdcopy')),)
DEFAULT = (
    Disk('random', 'qcow2', 1024, PLAIN + READING),
    Disk('tree', 'raw', 1024, COMPRESSED),
    Disk('tree', 'raw', 1024, ('plain', 'zstd', 'curl'), busy=False),
    Disk('sparse', 'qcow2', 256, ('plain', 'zstd', 'curl', 'stock')),
    Disk('tree', 'qcow2', 4096, ('plain', 'zstd', 'curl', 'stock'), runs=3))
FULL = (
    *DEFAULT[:-1], dataclasses.replace(DEFAULT[-1], contenders=COMPRESSED,
                                       runs=5),
    Disk('random', 'raw', 1024, PLAIN + READING),
    Disk('tree', 'qcow2', 1024, COMPRESSED),
    Disk('random', 'qcow2', 4096, PLAIN + READING))
CEPH = (
    Disk('random', 'qcow2', 1024, DATA_ALONE + ALL_ZEROS, gib=10, ceph=True),
    # With its zeros, an image of this takes ten minutes.
    Disk('random', 'qcow2', 1024, DATA_ALONE, gib=100, ceph=True))


def build(disk: Disk, conf: settings.Settings, folder: pathlib.Path,
          source: pathlib.Path) -> pathlib.Path:
    """Build a disk's file.

    :param source: the small guest's disk, qcow2
    """
    raw = folder / 'disk.raw'
    process.output('qemu-img', 'convert', '-f', 'qcow2', '-O', 'raw',
                   source, raw)
    with open(raw, 'r+b') as file:
        file.truncate(disk.bytes)
        file.seek(guest.SMALL_DISK_BYTES)
        if disk.kind == 'sparse':
            write_sparse(file.fileno(), disk.mib * MI)
        else:
            pieces = (random_pieces() if disk.kind == 'random'
                      else tree_pieces(roots(conf)))
            write(file, pieces, disk.mib * MI)
    if disk.disk_format == 'raw':
        return raw
    made = folder / 'disk.qcow2'
    process.output('qemu-img', 'convert', '-f', 'raw', '-O', 'qcow2',
                   raw, made, timeout=CONVERT_TIMEOUT)
    raw.unlink()
    return made


def write(file: typing.BinaryIO, pieces: collections.abc.Iterable[bytes],
          size: int) -> None:
    """Write pieces up to a size in bytes."""
    for piece in pieces:
        piece = piece[:size]
        file.write(piece)
        size -= len(piece)
        if not size:
            return


def write_sparse(descriptor: int, size: int) -> None:
    """Write random extents, with holes between them."""
    for number in range(size // EXTENT_BYTES):
        os.pwrite(descriptor, os.urandom(EXTENT_BYTES),
                  guest.SMALL_DISK_BYTES + number * STRIDE_BYTES)


def random_pieces() -> collections.abc.Iterator[bytes]:
    while True:
        yield os.urandom(PIECE_BYTES)


def roots(conf: settings.Settings) -> tuple[pathlib.Path, ...]:
    """Return folders with libraries and Python files."""
    return pathlib.Path('/usr/lib'), conf.venv / 'lib'


def tree_pieces(
        folders: tuple[pathlib.Path, ...]) -> collections.abc.Iterator[bytes]:
    """Yield the contents of libraries and Python files, over and over.

    With the last block of each padded, as in a file system. Clusters are
    compressed one by one, so repetition does not matter.
    """
    paths = [path for folder in folders for path in sorted_files(folder)]
    for path in itertools.cycle(paths):
        data = path.read_bytes()
        yield data + bytes(-len(data) % BLOCK_BYTES)


def sorted_files(folder: pathlib.Path) -> list[pathlib.Path]:
    """Return the libraries and Python files of a directory, sorted."""
    found = [pathlib.Path(parent) / name
             for parent, _, names in os.walk(folder) for name in names
             if name.endswith('.py') or '.so' in name]
    return sorted(path for path in found
                  if path.is_file() and not path.is_symlink())

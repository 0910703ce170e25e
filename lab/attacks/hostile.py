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

"""Headers that make a program take a disk for another format.

Source: OpenStack's security advisories, named at each header.
"""

import collections.abc
import dataclasses
import json
import os
import pathlib
import random

from lab import luks
from lab.openstack import process

DISK_BYTES = 16 << 20
BLOCK = 4096
PIECE_BYTES = 32 << 10

Piece = tuple[int, bytes]


@dataclasses.dataclass(frozen=True)
class Header:
    """What is written to the start of a disk.

    :param format: what a program takes the disk for that looks at it
    """

    name: str
    advisory: str
    format: str
    path: pathlib.Path

    def pieces(self) -> list[Piece]:
        """Return what is not zero, as (offset, bytes)."""
        found: list[Piece] = []
        content = self.path.read_bytes()[:DISK_BYTES]
        for offset in range(0, len(content), BLOCK):
            block = content[offset:offset + BLOCK]
            if not any(block):
                continue
            before, joined = found[-1] if found else (-1, b'')
            if (before + len(joined) == offset
                    and len(joined) < PIECE_BYTES):
                found[-1] = (before, joined + block)
            else:
                found.append((offset, block))
        return found


class Canary:
    """A file of the host's that must not get into any image.

    Only root can read it, and it is as large as a disk.
    """

    def __init__(self, folder: pathlib.Path, chance: random.Random) -> None:
        self.path = folder / 'canary'
        self.secret = b'canary-%032x' % chance.getrandbits(128)
        self.path.unlink(missing_ok=True)
        self.path.touch(mode=0o600)
        self.path.write_bytes(self.secret * 1024)
        os.truncate(self.path, DISK_BYTES)


def _qcow2_backing(canary: pathlib.Path, path: pathlib.Path) -> None:
    process.output('qemu-img', 'create', '-f', 'qcow2', '-F', 'raw', '-b',
                   canary, path)


def _qcow2_json(canary: pathlib.Path, path: pathlib.Path) -> None:
    process.output('qemu-img', 'create', '-f', 'qcow2', '-u', '-F', 'raw',
                   '-b', _json(canary), path, str(DISK_BYTES))


def _qcow2_data_file(canary: pathlib.Path, path: pathlib.Path) -> None:
    # With another data file first: qemu-img truncates it.
    other = canary.with_name('canarx')
    process.output('qemu-img', 'create', '-f', 'qcow2', '-o',
                   f'data_file={other},data_file_raw=on', path,
                   str(DISK_BYTES))
    path.write_bytes(path.read_bytes().replace(b'canarx', b'canary'))
    other.unlink()


def _vmdk_name(canary: pathlib.Path, path: pathlib.Path) -> None:
    path.write_text(
        '# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\n'
        f'createType="monolithicFlat"\nRW {DISK_BYTES // 512} FLAT "{canary}"'
        ' 0\nddb.adapterType = "ide"\n')


def _json_name(canary: pathlib.Path, path: pathlib.Path) -> None:
    path.write_text(_json(canary))


def _json(path: pathlib.Path) -> str:
    return 'json:' + json.dumps(
        {'driver': 'raw', 'file': {'driver': 'file', 'filename': str(path)}})


def _luks(canary: pathlib.Path, path: pathlib.Path) -> None:
    path.write_bytes(luks.header())


_Make = collections.abc.Callable[[pathlib.Path, pathlib.Path], object]


def _plain(disk_format: str) -> _Make:
    return lambda canary, path: process.output(
        'qemu-img', 'create', '-f', disk_format, path, str(DISK_BYTES))


# By name: the advisories, the format and what writes the header.
_MAKERS: dict[str, tuple[str, str, _Make]] = {
    'qcow2 with a backing file': (
        'OSSA-2016-001, OSSA-2024-002', 'qcow2', _qcow2_backing),
    'qcow2 with a json: backing file': (
        'OSSA-2024-001', 'qcow2', _qcow2_json),
    'qcow2 with a data file': ('OSSA-2024-001', 'qcow2', _qcow2_data_file),
    'VMDK that names a file': ('OSSA-2023-002', 'vmdk', _vmdk_name),
    'a json: name': ('OSSA-2024-001', 'raw', _json_name),
    **{f'{name} header': ('OSSA-2024-002', name, _plain(name))
       for name in ('qcow2', 'vmdk', 'vhdx', 'qed')},
    'luks header': ('OSSA-2024-002', 'luks', _luks),
}
ADVISORIES = {name: one[0] for name, one in _MAKERS.items()}
# Opened in their formats, these show the canary.
LEAKING = tuple(_MAKERS)[:4]


def make(canary: Canary, folder: pathlib.Path) -> list[Header]:
    """Write all headers to files of a directory."""
    found = []
    for number, (name, (advisory, form, write)) in enumerate(
            _MAKERS.items()):
        header = Header(name, advisory, form, folder / f'header-{number}')
        header.path.unlink(missing_ok=True)
        write(canary.path, header.path)
        found.append(header)
    return found


def believed(header: Header, folder: pathlib.Path) -> bytes:
    """Return what a program reads that opens a disk in its header's format."""
    target = folder / 'believed'
    process.output('qemu-img', 'convert', '-f', header.format, '-O', 'raw',
                   header.path, target)
    content = target.read_bytes()
    target.unlink()
    return content

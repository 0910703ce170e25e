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

"""The header of an encrypted disk, LUKS 1.

`qemu-img create -f luks` measures the processor first, and gives up where
that is not exact: "Unable to get accurate CPU usage" on some virtual machines.
No key is needed to take a disk for an encrypted one.

Source: LUKS On-Disk Format Specification 1.2.3, the partition header.
"""

import struct

_KEY_BYTES = 64                 # AES-256 in XTS mode has two keys
_STRIPES = 4000                 # by which a key is spread
_SLOTS = 8
_ACTIVE, _UNUSED = 0x00ac71f3, 0x0000dead
_FIRST_SLOT_AT = 8              # sectors
_SLOT_SECTORS = 504             # a spread key, up to the next 4 KiB
_ITERATIONS = 1000              # the least that the specification has


def header() -> bytes:
    """Return a header with one key, which is not known."""
    cipher = struct.pack('>32s32s32s', b'aes', b'xts-plain64', b'sha256')
    payload_at = _FIRST_SLOT_AT + _SLOTS * _SLOT_SECTORS
    digest = struct.pack('>20s32sI', b'\1' * 20, b'\2' * 32, _ITERATIONS)
    uuid = b'5f0c2a4e-7a49-4b59-9a3d-0f3e5c1d7b86'
    return b''.join([
        b'LUKS\xba\xbe', struct.pack('>H', 1), cipher,
        struct.pack('>II', payload_at, _KEY_BYTES), digest,
        struct.pack('>40s', uuid), *map(_slot, range(_SLOTS))])


def _slot(number: int) -> bytes:
    """Return a key's slot; the first one is in use."""
    return struct.pack('>II32sII', _UNUSED if number else _ACTIVE,
                       0 if number else _ITERATIONS,
                       b'' if number else b'\3' * 32,
                       _FIRST_SLOT_AT + number * _SLOT_SECTORS, _STRIPES)

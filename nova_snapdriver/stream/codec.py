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

"""The compression of single clusters, as qcow2 has it.

Always with the same library and level: the second pass over a disk has to give
the very bytes of the first.
"""

from collections.abc import Callable
import importlib.util
import zlib

# What gives most for its time: see "Compression" in the documentation.
_LEVEL = 1

# Raw deflate with a window of 2^12 bytes: QEMU's inflate() has no more.
_WINDOW_BITS = -12

Compress = Callable[[memoryview], bytes]


def missing(codec: str) -> str | None:
    """What a codec cannot do without on this host, in words."""
    if codec == 'zstd' and importlib.util.find_spec('zstandard') is None:
        return 'the Python package zstandard'
    return None


def slow(codec: str) -> str | None:
    """What a codec is much slower without on this host, in words."""
    if codec == 'zlib' and importlib.util.find_spec('isal') is None:
        return 'the Python package isal'
    return None


def zlib_compressor() -> Compress:
    """Deflate: by ISA-L where there is one, six times as fast as zlib."""
    try:
        from isal import isal_zlib
    except ImportError:
        return lambda content: zlib.compress(content, _LEVEL, _WINDOW_BITS)
    return lambda content: bytes(
        isal_zlib.compress(content, _LEVEL, _WINDOW_BITS))


def zstd_compressor() -> Compress:
    """Zstandard, a frame a cluster."""
    import zstandard
    compressor = zstandard.ZstdCompressor(level=_LEVEL)
    return lambda content: bytes(compressor.compress(content))


# Each makes one for one thread: they keep a state.
COMPRESSORS: dict[str, Callable[[], Compress]] = {
    'zlib': zlib_compressor,
    'zstd': zstd_compressor,
}

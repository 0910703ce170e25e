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

"""Compress single clusters, as qcow2 has them."""

from collections.abc import Callable
import importlib.util
import zlib

# Of each pair, the first has the best ratio for its time: see "Compression" in
# the documentation. The second takes longer, and is for an image that grows
# larger than predicted.
_ZSTD_LEVELS = (1, 6)
_ZLIB_LEVELS = (1, 6)

# Of system files, in a second of one core, and how much they shrink:
#   ISA-L 0  666 MiB  2.09     ISA-L 2  570 MiB  2.45     zlib 1  45 MiB  2.50
#   ISA-L 1  581 MiB  2.44     ISA-L 3  368 MiB  2.47
# Levels 1 and 2 give bytes that depend on where ISA-L's stream structure lies:
# one of some 6000 clusters differed. An image that is read again for another
# hash has to be the same one (ImageBody.hash_again). Of the two others, 0
# gives 18% more: Glance takes longer for these than 3 takes longer on two
# cores.
_ISAL_LEVEL = 3

# Raw deflate with a window of 2^12 bytes: QEMU's inflate() takes no more.
_WINDOW_BITS = -12

Compress = Callable[[memoryview], bytes]


def missing(codec: str) -> str | None:
    """What this host lacks for a codec, in words; None if nothing."""
    if codec == 'zstd' and importlib.util.find_spec('zstandard') is None:
        return 'the Python package zstandard'
    return None


def slow(codec: str) -> str | None:
    """What this host lacks for a fast codec, in words; None if nothing."""
    if codec == 'zlib' and importlib.util.find_spec('isal') is None:
        return 'the Python package isal'
    return None


def zlib_compressor(harder: bool) -> Compress:
    """Deflate, by ISA-L where it is installed: many times as fast as zlib."""
    if not harder:
        try:
            from isal import isal_zlib
            return lambda content: bytes(isal_zlib.compress(
                content, _ISAL_LEVEL, _WINDOW_BITS))
        except ImportError:
            pass
    level = _ZLIB_LEVELS[harder]
    return lambda content: zlib.compress(content, level, _WINDOW_BITS)


def zstd_compressor(harder: bool) -> Compress:
    """Zstandard, one frame for each cluster."""
    import zstandard
    compressor = zstandard.ZstdCompressor(level=_ZSTD_LEVELS[harder])
    return lambda content: bytes(compressor.compress(content))


# Each makes a compressor for one thread: a compressor keeps state. It is told
# whether to take more time.
COMPRESSORS: dict[str, Callable[[bool], Compress]] = {
    'zlib': zlib_compressor,
    'zstd': zstd_compressor,
}

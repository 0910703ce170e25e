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
import itertools
import zlib

# The best ratio for its time: see "Compression" in the documentation.
_LEVEL = 1

# Raw deflate with a window of 2^12 bytes: QEMU's inflate() takes no more.
_WINDOW_BITS = -12

# Levels and strategies of zlib that take longer than ISA-L and give less: the
# first did for 228 of 252 clusters of programs, texts and noise, the second
# for the rest.
_TIGHT = ((6, zlib.Z_DEFAULT_STRATEGY), (9, zlib.Z_FILTERED))

# The length of a cluster that is compressed again may differ by a 16th. Seen
# were 3 bytes of 7600, in one of some 20000 clusters.
_TOLERANCE = 16

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


def zlib_compressor() -> Compress:
    """Deflate, by ISA-L where it is installed: six times as fast as zlib."""
    try:
        from isal import isal_zlib
    except ImportError:
        return lambda content: zlib.compress(content, _LEVEL, _WINDOW_BITS)
    return lambda content: bytes(
        isal_zlib.compress(content, _LEVEL, _WINDOW_BITS))


def zstd_compressor() -> Compress:
    """Zstandard, one frame for each cluster."""
    import zstandard
    compressor = zstandard.ZstdCompressor(level=_LEVEL)
    return lambda content: bytes(compressor.compress(content))


# Each makes a compressor for one thread: a compressor keeps state.
COMPRESSORS: dict[str, Callable[[], Compress]] = {
    'zlib': zlib_compressor,
    'zstd': zstd_compressor,
}


def fitted(codec: str, cluster: memoryview, packed: bytes,
           length: int) -> bytes | None:
    """Bring a cluster to the compressed length that the survey found.

    ISA-L does not always make the same of the same bytes, and the image has
    room for the surveyed length alone. Zeros may follow a deflate stream.

    :param packed: the cluster as compressed now; empty if it did not shrink
    :param length: bytes that it took in the survey
    :returns: ``length`` bytes; None if the cluster holds other data
    """
    if len(packed) == length:
        return packed
    other = packed and abs(len(packed) - length) * _TOLERANCE > length
    if codec != 'zlib' or other:
        return None
    tries = itertools.chain([packed], (
        _deflated(cluster, *settings) for settings in _TIGHT))
    for one in tries:
        if 0 < len(one) <= length:
            return one + bytes(length - len(one))
    return None


def _deflated(content: memoryview, level: int, strategy: int) -> bytes:
    one = zlib.compressobj(level, zlib.DEFLATED, _WINDOW_BITS,
                           zlib.DEF_MEM_LEVEL, strategy)
    return one.compress(content) + one.flush()

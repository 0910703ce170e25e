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

"""The compression of single clusters, as qcow2 has it."""

from collections.abc import Callable
import importlib.util
import itertools
import zlib

# What gives most for its time: see "Compression" in the documentation.
_LEVEL = 1

# Raw deflate with a window of 2^12 bytes: QEMU's inflate() has no more.
_WINDOW_BITS = -12

# Deflate by zlib that takes longer than ISA-L's and is shorter: the first for
# 228 of 252 clusters of programs, texts and noise, the other for the rest.
_TIGHT = ((6, zlib.Z_DEFAULT_STRATEGY), (9, zlib.Z_FILTERED))

# What the same cluster may differ by when it is compressed again: a part of
# its length. Seen were 3 bytes of 7600, in one of some 20000 clusters.
_TOLERANCE = 16

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


def fitted(codec: str, cluster: memoryview, packed: bytes,
           length: int) -> bytes | None:
    """What takes the place of a cluster that was compressed before.

    ISA-L does not make the same of the same bytes each time, though there is
    a place for what it made at first. Deflate may be followed by zeros.

    :param packed: what was made of it now; empty if it did not shrink
    :param length: bytes that there were then
    :returns: ``length`` bytes; none if the cluster is another one
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

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


import zlib

import pytest

from nova_snapdriver.stream import codec
from tests.unit.stream import fake_disk

TEXT = b''.join(b'line %d\n' % number for number in range(9999))[:65536]


@pytest.mark.parametrize('name, package', (
    ('zlib', None), ('zstd', 'zstandard')))
def test_what_is_missing_is_named(monkeypatch, name, package):
    monkeypatch.setattr(codec.importlib.util, 'find_spec', lambda name: None)
    if package is None:
        assert codec.missing(name) is None
        assert 'isal' in codec.slow(name)
    else:
        assert package in codec.missing(name)


@pytest.mark.parametrize('name, cluster', (
    ('zlib', TEXT), ('zstd', fake_disk.KINDS['words'])))
def test_more_time_makes_it_smaller(name, cluster):
    usual, harder = (codec.COMPRESSORS[name](harder)(memoryview(cluster))
                     for harder in (False, True))
    assert len(harder) < 0.97 * len(usual)


@pytest.mark.parametrize('harder', (False, True))
def test_window_is_one_that_qemu_takes(harder):
    packed = codec.zlib_compressor(harder)(memoryview(TEXT))
    assert zlib.decompress(packed, -12) == TEXT


@pytest.mark.parametrize('name', codec.COMPRESSORS)
def test_same_data_give_the_same_bytes(name):
    """In another compressor, too: an image may be made again for a hash."""
    cluster = memoryview(fake_disk.KINDS['half'])
    found = {codec.COMPRESSORS[name](False)(cluster) for _ in range(500)}
    assert len(found) == 1

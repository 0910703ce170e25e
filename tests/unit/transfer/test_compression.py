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

import types

import pytest

from nova_snapdriver.stream import codec
from nova_snapdriver.transfer import compression
from nova_snapdriver.transfer import process


def conf(compression='none', nova=False):
    return types.SimpleNamespace(
        snapdriver=types.SimpleNamespace(
            compression=compression, compression_threads=3),
        libvirt=types.SimpleNamespace(snapshot_compression=nova))


@pytest.mark.parametrize('wanted, nova, expected', (
    ('none', False, None), ('none', True, 'zlib'), ('zstd', True, 'zstd'),
    ('zlib', False, 'zlib'), ('zstd', False, 'zstd')))
def test_novas_option_means_zlib_unless_ours_names_another(
        wanted, nova, expected):
    assert compression.codec(conf(wanted, nova)) == expected


def test_options_reach_the_stream():
    found = compression.choose(conf('zlib'), 'qcow2', None)
    assert found == process.Compression('zlib', 3)


def test_raw_images_are_not_compressed():
    assert compression.choose(conf('zlib'), 'raw', None).codec is None


def test_without_its_package_the_image_is_not_compressed(monkeypatch, caplog):
    monkeypatch.setattr(codec, 'missing', lambda name: 'the package x')
    found = compression.choose(conf('zstd'), 'qcow2', None)
    assert found.codec is None
    assert 'the package x' in caplog.text

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

from nova_snapdriver.capture import workspace
from nova_snapdriver.stream import codec
from nova_snapdriver.transfer import compression
from nova_snapdriver.transfer import process

MIB = 1 << 20


def conf(compression='none', nova=False, limit=1, reserve=0):
    return types.SimpleNamespace(
        snapdriver=types.SimpleNamespace(
            compression=compression, compression_threads=3,
            compression_spool_limit=limit, detect_zeroes=True,
            scratch_reserve=reserve, scratch_limit=0,
            read_ahead_threshold=0),
        libvirt=types.SimpleNamespace(snapshot_compression=nova))


@pytest.fixture
def place(tmp_path):
    return workspace.locate(str(tmp_path))


@pytest.mark.parametrize('wanted, nova, expected', (
    ('none', False, None), ('none', True, 'zlib'), ('zstd', True, 'zstd'),
    ('zlib', False, 'zlib'), ('zstd', False, 'zstd')))
def test_novas_option_means_zlib_unless_ours_names_another(
        wanted, nova, expected):
    assert compression.codec(conf(wanted, nova)) == expected


def test_options_reach_the_stream(place):
    found = compression.choose(conf('zlib'), 'qcow2', place, None)
    assert found == process.Compression('zlib', 3, place.path, MIB, True)


def test_raw_images_are_not_compressed(place):
    assert compression.choose(conf('zlib'), 'raw', place, None).codec is None


def test_room_that_the_guest_needs_is_not_taken(place):
    found = compression.choose(conf('zlib', reserve=1 << 40), 'qcow2', place,
                               None)
    assert found.limit == 0


def test_without_its_package_the_image_is_not_compressed(
        place, monkeypatch, caplog):
    monkeypatch.setattr(codec, 'missing', lambda name: 'the package x')
    found = compression.choose(conf('zstd'), 'qcow2', place, None)
    assert found.codec is None
    assert 'the package x' in caplog.text

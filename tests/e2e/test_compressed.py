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

"""Compressed images: Glance takes them, and servers boot from them."""

import pytest

from lab import config
from lab import demo
from tests.e2e import checks

OPTIONS = {
    'zlib': (('libvirt', 'snapshot_compression', 'true'),),
    'zstd': (('snapdriver', 'compression', 'zstd'),),
}


@pytest.fixture(scope='module')
def source(small):
    return small()


@pytest.fixture(scope='module')
def plain_size(lab, source):
    image = lab.cloud.wait_image(checks.create_image(lab, source))
    lab.cloud.delete_image(image['id'])
    return image['size']


@pytest.fixture
def compressing(lab, plain_size):
    """Has nova-compute compress."""
    yield lambda codec: lab.compute(config.Compute(options=OPTIONS[codec]))
    lab.compute(config.Compute())


@pytest.mark.parametrize('codec', ('zlib', 'zstd'))
def test_a_server_boots_from_it(lab, source, small, compressing, plain_size,
                                tmp_path, codec):
    compressing(codec)
    image_id = checks.create_image(lab, source)
    image, round_number = checks.assert_whole(lab, image_id, tmp_path)
    assert image['size'] < plain_size / 2
    checks.assert_goes_on(lab, source)

    booted = small(image_id, f'from-{codec}')
    assert demo.whole(checks.restored(booted, round_number))

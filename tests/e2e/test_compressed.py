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

import json

import pytest

from lab.bench import demo
from lab.openstack import config
from lab.openstack import process
from tests.e2e import checks

OPTIONS = {
    'zlib': (('libvirt', 'snapshot_compression', 'true'),),
    'zstd': (('snapdriver', 'compression', 'zstd'),),
}


@pytest.fixture(scope='module')
def source(small):
    return small()


@pytest.fixture
def compressing(lab, source):
    """Has nova-compute compress."""
    yield lambda codec: lab.compute(config.Compute(options=OPTIONS[codec]))
    lab.compute(config.Compute())


@pytest.mark.parametrize('codec', ('zlib', 'zstd'))
def test_a_server_boots_from_it(lab, source, small, compressing, tmp_path,
                                codec):
    compressing(codec)
    image_id = checks.create_image(lab, source)
    _, round_number = checks.assert_whole(lab, image_id, tmp_path)
    assert compressed_clusters(lab, image_id, tmp_path)
    checks.assert_goes_on(lab, source)

    booted = small(image_id, f'from-{codec}')
    assert demo.whole(checks.restored(booted, round_number))


def compressed_clusters(lab, image_id, tmp_path):
    """How many there are; most of the guest's data are random."""
    path = tmp_path / 'image'
    lab.cloud.download(image_id, path)
    return json.loads(process.output(
        'qemu-img', 'check', '-f', 'qcow2', '--output', 'json', str(path)
    ))['compressed-clusters']

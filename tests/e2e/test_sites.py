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

"""Sites that differ from the lab: what their Glance takes, and inherits."""

import pytest

from lab.openstack import config
from tests.e2e import checks

LABELS = {'snapdriver_path', 'snapdriver_consistency',
          'snapdriver_captured_at'}
VMDK = (('libvirt', 'snapshot_image_format', 'vmdk'),)


@pytest.fixture(scope='module')
def server(small):
    return small(name='site')


def properties(lab, image_id):
    """The image's properties, as Glance counts them."""
    image = lab.cloud.call('GET', 'image', f'/images/{image_id}')
    schema = lab.cloud.call('GET', 'image', '/schemas/image')
    return set(image) - set(schema['properties'])


@pytest.fixture(scope='module')
def labelled(lab, server):
    """A snapshot where Glance takes everything."""
    image_id = checks.create_image(lab, server)
    lab.cloud.wait_image(image_id)
    assert properties(lab, image_id) >= LABELS
    return image_id


@pytest.fixture
def glance(lab):
    """Glance with other options for the test."""
    yield lambda **options: lab.images(config.Images(**options))
    lab.images(config.Images())


def test_properties_that_are_protected(lab, server, labelled, glance,
                                       tmp_path):
    glance(protected=('^snapdriver_.*',))
    image, _ = checks.assert_whole(lab, checks.create_image(lab, server),
                                   tmp_path)
    assert properties(lab, image['id']) == (
        properties(lab, labelled) - LABELS)
    checks.assert_goes_on(lab, server)


def test_quota_of_properties(lab, server, labelled, glance, tmp_path):
    enough = properties(lab, labelled) - LABELS
    glance(options=(('DEFAULT', 'image_property_quota', str(len(enough))),))
    image, _ = checks.assert_whole(lab, checks.create_image(lab, server),
                                   tmp_path)
    assert properties(lab, image['id']) == enough
    checks.assert_goes_on(lab, server)


def test_labels_are_not_inherited_by_a_snapshot_of_novas_own(
        lab, labelled, small):
    second = small(labelled, name='inheriting')
    lab.compute(config.Compute(options=VMDK))
    image = lab.cloud.wait_image(checks.create_image(lab, second))
    assert image['disk_format'] == 'vmdk'
    assert not properties(lab, image['id']) & LABELS

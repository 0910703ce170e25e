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

"""What else calls the driver's snapshot(), and servers of many kinds."""

import datetime

import libvirt
import pytest

from lab.bench import demo
from lab.openstack import config
from lab.openstack import guest
from lab.openstack import stack
from tests.e2e import checks

FLAVOR = 'snapdriver-small-disks'


@pytest.fixture(scope='module')
def server(small):
    return small()


@pytest.fixture(scope='module')
def source(lab, server, tmp_path_factory):
    """An image of the server, and the round of its writes that it holds."""
    return checks.assert_whole(lab, checks.create_image(lab, server),
                               tmp_path_factory.mktemp('source'))


@pytest.fixture(scope='module')
def second(source, small):
    """A server made from a snapshot."""
    image, _ = source
    return small(image['id'], name='second')


def test_a_snapshot_of_a_server_from_a_snapshot(lab, source, second, small,
                                                tmp_path):
    _, first_round = source
    assert demo.whole(checks.restored(second, first_round))
    image, round_number = checks.assert_whole(
        lab, checks.create_image(lab, second), tmp_path)
    assert image['snapdriver_consistency'] == 'filesystem'
    assert round_number > first_round
    checks.assert_goes_on(lab, second)

    third = small(image['id'], name='third')
    assert demo.whole(checks.restored(third, round_number))
    checks.stop(lab, third)
    image = lab.cloud.wait_image(checks.create_image(lab, third))
    assert image['snapdriver_path'] == 'cold'
    checks.assert_copy(lab, image['id'], third, tmp_path)


def test_a_rebuild_from_a_snapshot(lab, source, second):
    image, round_number = source
    console = checks.console_from_now(second)
    lab.cloud.action(second.id, 'rebuild', imageRef=image['id'])
    lab.cloud.wait_server(second.id)
    assert demo.whole(checks.restored(second, round_number, console))
    checks.assert_goes_on(lab, second)


@pytest.mark.parametrize('offload_time', ('-1', '0'))
def test_shelve_and_unshelve(lab, server, tmp_path, offload_time):
    lab.compute(config.Compute(options=(
        ('DEFAULT', 'shelved_offload_time', offload_time),)))
    lab.cloud.action(server.id, 'shelve')
    if offload_time == '-1':
        lab.cloud.wait_server(server.id, 'SHELVED')
        lab.cloud.action(server.id, 'shelveOffload')
    lab.cloud.wait_server(server.id, 'SHELVED_OFFLOADED')

    [found] = lab.cloud.images(f'{server.name}-shelved')
    # It was stopped with no warning.
    image, round_number = checks.assert_whole(lab, found['id'], tmp_path,
                                              replay=True)
    assert image['snapdriver_path'] == 'cold'
    checks.assert_nothing_left(lab)

    lab.cloud.action(server.id, 'unshelve')
    lab.cloud.wait_server(server.id)
    assert demo.whole(checks.restored(server, round_number))
    checks.assert_goes_on(lab, server)
    assert not lab.cloud.images(image['name'])


def test_one_snapshot_at_a_time(lab, server, second):
    # With native threads Nova takes the higher of the two for both.
    lab.compute(config.Compute(options=(
        ('DEFAULT', 'max_concurrent_snapshots', '1'),
        ('DEFAULT', 'max_concurrent_builds', '1'))))
    images = [lab.cloud.wait_image(image_id) for image_id in [
        checks.create_image(lab, one) for one in (server, second)]]
    for one in (server, second):
        checks.assert_goes_on(lab, one)
    first, last = sorted(images, key=_captured)
    # The second was not captured before the first was stored. Glance's time
    # has no fraction.
    stored = datetime.datetime.fromisoformat(first['updated_at'])
    assert _captured(last) >= stored - datetime.timedelta(seconds=1)


def _captured(image):
    return datetime.datetime.fromisoformat(image['snapdriver_captured_at'])


def test_only_the_root_disk_is_taken(lab, small, tmp_path):
    """A server with an ephemeral disk, swap and a config drive."""
    lab.cloud.flavor(FLAVOR, stack.FLAVOR_RAM_MIB,
                     stack.SMALL_FLAVOR_DISK_GIB, ephemeral=1, swap=64)
    many = small(name='disks', flavor=FLAVOR,
                 options={'config_drive': True})
    files = {path.name for path in many.folder.iterdir()}
    assert {'disk', 'disk.eph0', 'disk.swap', 'disk.config'} <= files

    image, _ = checks.assert_whole(
        lab, checks.create_image(lab, many), tmp_path)
    assert image['snapdriver_path'] == 'live'
    assert image['virtual_size'] == guest.SMALL_DISK_BYTES
    checks.assert_goes_on(lab, many)

    checks.stop(lab, many)
    image = lab.cloud.wait_image(checks.create_image(lab, many))
    assert image['snapdriver_path'] == 'cold'
    checks.assert_copy(lab, image['id'], many, tmp_path)
    checks.start(lab, many)


@pytest.mark.skipif(
    libvirt.getVersion() < 10000000,
    reason='Nova 34 asks for firmware in a way that libvirt before 10 refuses')
def test_a_guest_with_uefi_and_nvram(lab, small, tmp_path):
    uefi = small(name='uefi', hw_firmware_type='uefi',
                 hw_machine_type='q35')
    nvram = uefi.domain.nvram()
    image, _ = checks.assert_whole(
        lab, checks.create_image(lab, uefi), tmp_path)
    assert image['snapdriver_path'] == 'live'
    assert image['hw_firmware_type'] == 'uefi'
    checks.assert_goes_on(lab, uefi)
    assert nvram.exists()

    checks.stop(lab, uefi)
    written = nvram.read_bytes()
    image = lab.cloud.wait_image(checks.create_image(lab, uefi))
    assert image['snapdriver_path'] == 'cold'
    checks.assert_copy(lab, image['id'], uefi, tmp_path)
    assert nvram.read_bytes() == written
    checks.start(lab, uefi)

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

"""A guest with UEFI: its variables are its own, and no part of its disk."""

import pytest

from nova_snapdriver.capture import cold
from nova_snapdriver.capture import live
from nova_snapdriver.capture import mirror
from nova_snapdriver import imagebackend
from tests.functional import captures
from tests.functional import disks
from tests.functional import domains
from tests.functional import images
from tests.functional import power


@pytest.fixture(scope='module')
def connection(connection_with_events):
    return connection_with_events


@pytest.fixture
def nvram(area):
    return area / 'nvram.fd'


@pytest.fixture
def guest(area, nvram, start_domain):
    return start_domain(disks.make_qcow2(area, None),
                        firmware=domains.UEFI % nvram)


def assert_image_is_disk(area, path):
    domains.run('qemu-img', 'check', '-f', 'qcow2', path)
    # -U: QEMU has the disk open.
    domains.run('qemu-img', 'compare', '-U', '-f', 'qcow2', '-F', 'qcow2',
                path, area / 'disk.qcow2')


def assert_variables_kept(guest, nvram):
    xml = imagebackend.parse(guest.domain.XMLDesc(0))
    assert xml.findtext('os/nvram') == str(nvram)
    assert nvram.exists()


@pytest.mark.parametrize('way', (live, mirror))
def test_one_that_runs(way, guest, nvram, area):
    request = captures.request_of(guest.wrapped(), area)
    with way.capture(request) as captured:
        images.stream(captured.export, area / 'image', 'qcow2')
    assert_image_is_disk(area, area / 'image')
    assert_variables_kept(guest, nvram)
    guest.assert_untouched()


def test_one_that_is_suspended_for_it(guest, nvram, area):
    with cold.capture(power.Power(guest).request(area)) as captured:
        images.stream(captured.export, area / 'image', 'qcow2')
    assert_image_is_disk(area, area / 'image')
    assert_variables_kept(guest, nvram)
    power.assert_runs(guest, area)


def test_one_that_is_stopped(guest, nvram, area):
    guest.domain.destroy()
    written = nvram.read_bytes()
    request = captures.request_of(guest.wrapped(), area)
    with cold.capture(request) as captured:
        images.stream(captured.export, area / 'image', 'qcow2')
    assert_image_is_disk(area, area / 'image')
    assert nvram.read_bytes() == written
    guest.domain.create()
    guest.assert_untouched()

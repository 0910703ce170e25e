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

"""Disks that newer releases of libvirt know, where this daemon is one."""

import libvirt
import pytest

from nova_snapdriver.capture import cold
from nova_snapdriver.capture import live
from nova_snapdriver.capture import mirror
from nova_snapdriver import exception
from nova_snapdriver import imagebackend
from tests.functional import captures
from tests.functional import disks
from tests.functional import domains
from tests.functional import images

GROUPS = ("<throttlegroups><throttlegroup><group_name>slow</group_name>"
          "<total_iops_sec>500</total_iops_sec></throttlegroup>"
          "</throttlegroups></domain>")
FILTERS = "<throttlefilters><throttlefilter group='slow'/></throttlefilters>"


@pytest.fixture(scope='module')
def connection(connection_with_events):
    return connection_with_events


@pytest.fixture
def throttled(connection, start_domain, area):
    """A guest whose disk is in a throttle group: libvirt 11.2."""
    need(connection, 11_002_000)
    guest = start_domain(disks.make_qcow2(area, None))
    return restarted(connection, guest, ('</domain>', GROUPS),
                     ("<target dev='vda'", FILTERS + "<target dev='vda'"))


@pytest.fixture
def external(connection, start_domain, area):
    """A guest whose qcow2 file has its data in another: libvirt 10.10."""
    need(connection, 10_010_000)
    path, data = area / 'disk.qcow2', area / 'data'
    domains.run('qemu-img', 'create', '-f', 'qcow2', '-o',
                f'data_file={data}', path, disks.ODD_SIZE)
    disks.write_patterns(path, 'qcow2')
    store = (f"<source file='{path}'><dataStore type='file'><format "
             f"type='raw'/><source file='{data}'/></dataStore></source>")
    other, _ = disks.make_raw(area, None)
    return restarted(connection, start_domain((other, 'raw')),
                     ("type='raw'", "type='qcow2'"),
                     (f"<source file='{other}'/>", store))


def need(connection, version):
    if connection.getLibVersion() < version:
        pytest.skip('this libvirtd does not know such disks')


def restarted(connection, guest, *changes):
    xml = guest.domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    for old, new in changes:
        assert old in xml
        xml = xml.replace(old, new)
    guest.domain.destroy()
    connection.defineXML(xml).create()
    return guest


def assert_image_is_the_disk(path, guest, area):
    before, image = area / 'before', area / 'image'
    domains.run('qemu-img', 'convert', '-U', '-f', 'qcow2', '-O', 'raw',
                area / 'disk.qcow2', before)
    request = captures.request_of(guest.wrapped(), area)
    with path.capture(request) as captured:
        images.stream(captured.export, image, 'qcow2')
    images.assert_same(image, 'qcow2', before, 'raw')
    guest.assert_untouched()


@pytest.mark.parametrize('path', (live, mirror))
def test_throttled_disk(path, throttled, area):
    assert_image_is_the_disk(path, throttled, area)


def test_data_in_another_file(external, area):
    assert_image_is_the_disk(live, external, area)


def test_data_in_another_file_of_a_stopped_server(external):
    disk = imagebackend.root_disk(external.wrapped().live_xml())
    external.domain.destroy()
    with pytest.raises(exception.DiskUnusable, match='another file'):
        cold.chain(disk)

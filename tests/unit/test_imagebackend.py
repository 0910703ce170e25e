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

from lxml import etree
import pytest

from nova_snapdriver import exception
from nova_snapdriver import imagebackend

DOMAIN = '<domain><devices>%s</devices></domain>'
CHAIN = """
<disk type='file' device='disk'>
  <driver name='qemu' type='qcow2'/>
  <source file='/instances/disk'/>
  <backingStore type='file'>
    <format type='raw'/>
    <source file='/instances/_base/1234'/>
    <backingStore/>
  </backingStore>
  <target dev='vda' bus='virtio'/>
</disk>
<disk type='file' device='disk'>
  <driver name='qemu' type='raw'/>
  <source file='/instances/disk.eph0'/>
  <target dev='vdb' bus='virtio'/>
</disk>
"""


def root_disk(xml):
    return imagebackend.root_disk(imagebackend.parse(DOMAIN % xml))


def test_first_disk_with_its_chain():
    found = root_disk(CHAIN)
    assert found == imagebackend.RootDisk(
        'vda', 'disk',
        imagebackend.Source('file', 'qcow2', '/instances/disk'),
        backing=(imagebackend.Source('file', 'raw', '/instances/_base/1234'),))
    assert not found.encrypted


def test_block_device():
    found = root_disk("<disk type='block'><driver type='raw'/>"
                      "<source dev='/dev/loop7'/><target dev='sda'/></disk>")
    assert found.source == imagebackend.Source('block', 'raw', '/dev/loop7')
    assert found.target == 'sda'


def network_disk(source):
    return root_disk("<disk type='network'><driver type='raw'/>"
                     "%s<target dev='vda'/></disk>" % source).source


def test_network_disk_has_no_path():
    assert network_disk(
        "<source protocol='nbd' name='export'/>") == imagebackend.Source(
            'network', 'raw', None)


def test_rbd():
    assert network_disk(
        "<source protocol='rbd' name='vms/disk'><host name='a' port='6789'/>"
        "<host name='b'/><auth username='cinder'><secret type='ceph'/></auth>"
        "</source>").rbd == imagebackend.Rbd(
            'vms', 'disk', (('a', '6789'), ('b', '')), 'cinder')
    found = network_disk("<source protocol='rbd' name='vms/disk'/>").rbd
    assert found == imagebackend.Rbd('vms', 'disk')
    assert found.path == 'rbd:vms/disk'


@pytest.mark.parametrize('name', ('', 'disk', '/disk', 'vms/', 'vms/ns/disk'))
def test_rbd_that_is_not_named_as_nova_does(name):
    source = network_disk("<source protocol='rbd' name='%s'/>" % name)
    assert source.rbd is None


@pytest.mark.parametrize('where', (
    "<encryption format='luks'/><source file='/d'/>",
    "<source file='/d'><encryption format='luks'/></source>",
    "<source file='/d'/><backingStore type='file'><format type='qcow2'/>"
    "<source file='/b'><encryption format='luks'/></source></backingStore>"))
def test_encryption_is_found_wherever_it_is(where):
    assert root_disk("<disk type='file'><driver type='qcow2'/>%s"
                     "<target dev='vda'/></disk>" % where).encrypted


def test_device_and_read_only():
    found = root_disk("<disk type='file' device='cdrom'><driver type='raw'/>"
                      "<source file='/d'/><target dev='sda'/><readonly/>"
                      "<mirror type='file'/></disk>")
    assert (found.device, found.read_only) == ('cdrom', True)


def test_domain_without_a_disk():
    assert root_disk('') is None


@pytest.mark.parametrize('driver', ('', "<driver name='qemu'/>"))
def test_format_that_the_xml_does_not_name_is_not_guessed(driver):
    with pytest.raises(exception.DiskUnusable, match='no format for disk vda'):
        root_disk("<disk type='file'>%s<source file='/d'/>"
                  "<target dev='vda'/></disk>" % driver)


def test_entities_are_not_expanded(tmp_path):
    secret = tmp_path / 'secret'
    secret.write_text('canary')
    parsed = imagebackend.parse(
        '<!DOCTYPE d [<!ENTITY e SYSTEM "%s">]><d>&e;</d>' % secret)
    assert b'canary' not in etree.tostring(parsed)

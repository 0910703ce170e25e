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

"""A guest comes back with its CPUs and devices."""

import types
from unittest import mock

import libvirt
from nova import exception as nova_exception
from nova.virt.libvirt import config as vconfig
from nova.virt.libvirt import guest as nova_guest
import pytest

from nova_snapdriver.compute import power

INSTANCE = mock.Mock(uuid='server')


@pytest.fixture
def driver():
    """Nova's, which notes the order of its calls."""
    found = mock.Mock()
    found._host.get_guest.return_value = found.guest
    return found


@pytest.fixture(autouse=True)
def database():
    with mock.patch('nova.objects.Instance.get_by_uuid',
                    return_value=INSTANCE) as asked:
        yield asked


def names(driver):
    return [name for name, _, _ in driver.mock_calls]


def test_cpus_are_powered_up_before_the_start(driver):
    power.Power(driver).launch(INSTANCE)
    driver.cpu_api.power_up_for_instance.assert_called_once_with(INSTANCE)
    calls = names(driver)
    assert calls.index('cpu_api.power_up_for_instance') < calls.index(
        'guest.launch')


def test_all_devices_are_attached(driver):
    power.Power(driver).attach('context', INSTANCE)
    for name in ('_attach_pci_devices', '_attach_direct_passthrough_ports',
                 '_attach_mediated_devices'):
        assert getattr(driver, name).called
    driver.guest.get_xml_desc.assert_called_once_with(dump_inactive=True)


def device(kind, **identity):
    found = kind()
    for name, value in identity.items():
        setattr(found, name, value)
    return found


def vf(function):
    """As Nova names it, without 0x."""
    return device(vconfig.LibvirtConfigGuestHostdevPCI, domain='0000',
                  bus='81', slot='00', function=function)


def mdev(number):
    return device(vconfig.LibvirtConfigGuestHostdevMDEV, uuid=f'mdev-{number}')


def port(number):
    return device(vconfig.LibvirtConfigGuestInterface, net_type='hostdev',
                  mac_addr=f'fa:16:3e:00:00:0{number}',
                  source_dev=f'0000:81:10.{number}')


@pytest.mark.parametrize('has, lacks', (
    (vf('1'), vf('2')), (mdev(1), mdev(2)), (port(1), port(2))))
def test_what_the_guest_has_is_not_attached_again(has, lacks, driver):
    """libvirt refuses that, and the others would not be attached."""
    xml = '<domain><devices>%s</devices></domain>' % has.to_xml()
    domain = mock.Mock()
    domain.XMLDesc.return_value = xml
    driver._host.get_guest.return_value = nova_guest.Guest(domain)

    def attach(guest, devices):
        for one in devices:
            guest.attach_device(one)

    driver._attach_pci_devices.side_effect = attach
    with mock.patch.object(INSTANCE, 'get_pci_devices',
                           return_value=[has, lacks]):
        power.Power(driver).attach('context', INSTANCE)
    attached, = domain.attachDeviceFlags.call_args_list
    assert attached.args == (lacks.to_xml(),)


def test_recovery_starts(driver, database):
    assert power.Power(driver).launch_again('server', mock.Mock()) == []
    driver.guest.launch.assert_called_once_with()
    assert 'pci_devices' in database.call_args.kwargs['expected_attrs']
    assert 'numa_topology' in database.call_args.kwargs['expected_attrs']


def test_recovery_attaches(driver):
    assert power.Power(driver).attach_again('server', mock.Mock()) == []
    assert '_attach_pci_devices' in names(driver)


@pytest.mark.parametrize('error', (
    nova_exception.NovaException('no vf'), libvirt.libvirtError('no vf')))
def test_recovery_tells_of_devices_that_are_missing(error, driver):
    driver._attach_pci_devices.side_effect = error
    told, = power.Power(driver).attach_again('server', mock.Mock())
    assert 'no vf' in told and 'hard reboot' in told


def test_guest_is_not_started_without_the_database(driver, database):
    database.side_effect = OSError('away')
    with pytest.raises(OSError):
        power.Power(driver).launch_again('server', mock.Mock())
    assert driver.mock_calls == []


def test_guest_without_cpus_is_not_started(driver):
    driver.cpu_api.power_up_for_instance.side_effect = OSError('no governor')
    with pytest.raises(OSError):
        power.Power(driver).launch(types.SimpleNamespace())
    driver.guest.launch.assert_not_called()

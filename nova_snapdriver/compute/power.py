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

"""Stop a guest with Nova's means, and have it back with all that it had.

A suspended guest has given up devices of the host (PCI, SR-IOV, mediated
ones) and may have CPUs of its own that Nova powers down.
"""

import types
from typing import Any

import libvirt
from nova import context as nova_context
from nova import exception as nova_exception
from nova import objects

from nova_snapdriver import database
from nova_snapdriver import exception
from nova_snapdriver import guest as snap_guest


class Power:
    """Nova's ways to suspend and to start an instance.

    :param driver: Nova's :class:`nova.virt.libvirt.driver.LibvirtDriver`
    """

    def __init__(self, driver: Any) -> None:
        self._driver = driver

    def suspend(self, context: Any, instance: Any) -> None:
        """Take away the host's devices, save the memory and stop."""
        self._driver.suspend(context, instance)

    def launch(self, instance: Any) -> None:
        """Start the domain, from its memory if that is saved."""
        self._driver.cpu_api.power_up_for_instance(instance)
        self._driver._host.get_guest(instance).launch()

    def attach(self, context: Any, instance: Any) -> None:
        """Give those of the host's devices back that the guest lacks.

        :raises nova.exception.NovaException: not all could be attached
        :raises libvirt.libvirtError: the same
        """
        driver = self._driver
        guest = driver._host.get_guest(instance)
        lacking = _lacking(guest)
        driver._attach_pci_devices(lacking, instance.get_pci_devices(
            source=objects.InstancePCIRequest.FLAVOR_ALIAS))
        driver._attach_direct_passthrough_ports(context, instance, lacking)
        # The definition still has those that the guest was suspended without.
        driver._attach_mediated_devices(
            lacking, driver._get_mdevs_from_guest_config(
                guest.get_xml_desc(dump_inactive=True)))

    # For guests that a dead process has suspended, see
    # nova_snapdriver.recovery.undo.Tools.

    def launch_again(self, uuid: str, guest: snap_guest.Guest) -> list[str]:
        self.launch(database.find(uuid, *database.DEVICES))
        return []

    def attach_again(self, uuid: str, guest: snap_guest.Guest) -> list[str]:
        instance = database.find(uuid, *database.DEVICES)
        try:
            self.attach(nova_context.get_admin_context(), instance)
        except (nova_exception.NovaException, libvirt.libvirtError) as ex:
            return [str(exception.DevicesMissing(reason=ex))]
        return []


def _lacking(guest: Any) -> types.SimpleNamespace:
    """A guest that Nova's functions give only the devices that it lacks."""
    def attach_device(conf: Any, **flags: bool) -> None:
        if not any(_is_same(conf, one)
                   for one in guest.get_all_devices(type(conf))):
            guest.attach_device(conf, **flags)

    return types.SimpleNamespace(id=guest.id, attach_device=attach_device)


def _is_same(one: Any, other: Any) -> bool:
    """Whether two configurations are of the same device of the host.

    Those of mediated devices do not compare themselves.
    """
    uuid = getattr(one, 'uuid', None)
    return bool(one == other or uuid and uuid == other.uuid)

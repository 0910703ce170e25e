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
        """Give the host's devices back.

        :raises nova.exception.NovaException: not all could be attached
        :raises libvirt.libvirtError: the same
        """
        driver = self._driver
        guest = driver._host.get_guest(instance)
        driver._attach_pci_devices(guest, instance.get_pci_devices(
            source=objects.InstancePCIRequest.FLAVOR_ALIAS))
        driver._attach_direct_passthrough_ports(context, instance, guest)
        # The definition still has those that the guest was suspended without.
        driver._attach_mediated_devices(
            guest, driver._get_mdevs_from_guest_config(
                guest.get_xml_desc(dump_inactive=True)))

    def recover(self, uuid: str, guest: snap_guest.Guest) -> list[str]:
        """Start a guest that a dead process has suspended.

        See :class:`nova_snapdriver.recovery.undo.Tools`.
        """
        instance = database.find(uuid, *database.DEVICES)
        self.launch(instance)
        try:
            self.attach(nova_context.get_admin_context(), instance)
        except (nova_exception.NovaException, libvirt.libvirtError) as ex:
            return [str(exception.DevicesMissing(reason=ex))]
        return []

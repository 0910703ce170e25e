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

"""A connection to this host's libvirt, and its domains, without Nova's Host.

That one belongs to nova-compute: it reads nova.conf, and waits for events in
threads which never end.
"""

import platform
import threading
from typing import Any

import libvirt
from nova.compute import power_state
from nova import exception as nova_exception

from nova_snapdriver import exception

_STATES = {
    libvirt.VIR_DOMAIN_RUNNING: power_state.RUNNING,
    libvirt.VIR_DOMAIN_BLOCKED: power_state.RUNNING,
    libvirt.VIR_DOMAIN_PAUSED: power_state.PAUSED,
    libvirt.VIR_DOMAIN_SHUTDOWN: power_state.RUNNING,
    libvirt.VIR_DOMAIN_SHUTOFF: power_state.SHUTDOWN,
    libvirt.VIR_DOMAIN_CRASHED: power_state.CRASHED,
    libvirt.VIR_DOMAIN_PMSUSPENDED: power_state.SUSPENDED,
}


class Domain:
    """A domain, with what a snapshot calls of Nova's Guest.

    See :class:`nova.virt.libvirt.guest.Guest`.
    """

    def __init__(self, domain: Any) -> None:
        self._domain = domain
        self.name: str = domain.name()
        self.uuid: str = domain.UUIDString()

    def get_power_state(self, host: object) -> int:
        """The state of the domain, from :mod:`nova.compute.power_state`."""
        return int(_STATES.get(self._domain.state()[0], power_state.NOSTATE))


def deliver_events() -> None:
    """Have libvirt's events delivered, in a thread that ends with us.

    To be called before the first connection is opened.
    """
    def turn() -> None:
        while True:
            libvirt.virEventRunDefaultImpl()

    libvirt.virEventRegisterDefaultImpl()
    threading.Thread(target=turn, daemon=True).start()


class Libvirt:
    """The libvirt of this host.

    It has what a snapshot and a recovery call of
    :class:`nova.virt.libvirt.host.Host`.

    :param uri: of the connection
    :raises CaptureFailed: libvirt does not answer, or is another host's
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        # Errors are raised; libvirt need not print them as well.
        libvirt.registerErrorHandler(lambda context, error: None, None)
        try:
            self._connection = libvirt.open(uri)
            host = self._connection.getHostname()
        except libvirt.libvirtError as ex:
            raise exception.CaptureFailed(
                reason='libvirt does not answer at %s: %s' % (uri, ex)) from ex
        if host.partition('.')[0] != platform.node().partition('.')[0]:
            raise exception.CaptureFailed(
                reason='%s is the libvirt of %s: run this there, as its disks '
                       'are read on their host' % (uri, host))

    def get_connection(self) -> Any:
        """A connection that works, or did just now."""
        if not self._connection.isAlive():
            self._connection = libvirt.open(self._uri)
        return self._connection

    def get_guest(self, instance: Any) -> Domain:
        """The domain with the UUID of an instance.

        :raises nova.exception.InstanceNotFound: there is none
        """
        try:
            return Domain(self.get_connection().lookupByUUIDString(
                instance.uuid))
        except libvirt.libvirtError as ex:
            if ex.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
                raise
            raise nova_exception.InstanceNotFound(
                instance_id=instance.uuid) from ex

    def find(self, name: str) -> Domain:
        """A domain by its name, or its UUID.

        :raises DiskUnusable: there is none
        """
        for lookup in (self._connection.lookupByName,
                       self._connection.lookupByUUIDString):
            try:
                return Domain(lookup(name))
            except libvirt.libvirtError:
                pass
        names = sorted(one.name() for one in
                       self._connection.listAllDomains())
        raise exception.DiskUnusable(
            reason='libvirt has no domain %s; it has: %s' %
                   (name, ', '.join(names) or 'none'))

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

"""A second compute host on this machine: libvirtd and nova-compute again.

It has mount, pid, ipc and uts namespaces of its own. /run and libvirt's
directories are its own in there; the network is shared with the first host,
and so is instances_path, if wanted. If its first process ends, its guests die
with it.
"""

import dataclasses
import os
import pathlib
import shutil

from lab.openstack import cloud
from lab.openstack import config
from lab.openstack import domain
from lab.openstack import kvm
from lab.openstack import process
from lab.openstack import services
from lab.openstack import settings

HOST = f'{settings.COMPUTE_HOST}-2'
UUID = '8f6c5d1e-6d0b-4b55-9d3f-2f7c1a0e5b02'
#: Options of a host whose guests migrate live to this one.
LIVE_MIGRATION = (
    ('libvirt', 'live_migration_uri',
     f'qemu+tcp://%s:{settings.Ports.libvirt_tcp}/system'),
    # There Nova takes the base image for raw, and the guest's has a boot
    # sector without partitions.
    ('workarounds', 'disable_deep_image_inspection', 'True'))
# Arguments: its directory, its name, the node that covers /dev/kvm, INIT, and
# what instances_path is if that is not shared.
SCRIPT = """\
set -e
umask 022
mount -t proc proc /proc
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/lock "$0/etc/libvirt"
chmod 1777 /run/lock
cp -n /etc/libvirt/*.conf "$0/etc/libvirt"
for one in etc/libvirt var/lib/libvirt var/cache/libvirt var/log/libvirt; do
    mkdir -p "$0/$one" "/$one"
    mount --bind "$0/$one" "/$one"
done
# The first host's domains have the same names, in the same control groups.
while grep -q ' /sys/fs/cgroup' /proc/mounts; do
    umount -l -R /sys/fs/cgroup || break
done
[ ! -e "$2" ] || mount --bind "$2" /dev/kvm
[ -z "$4" ] || mount --bind "$0/instances" "$4"
hostname "$1"
touch /run/snapdriver-lab-2
exec /usr/bin/python3 -c "$3"
"""
# The first process has to reap; the kernel does, where it ignores SIGCHLD.
INIT = '''\
import signal
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
while True:
    signal.pause()
'''


class Machine(process.Daemon):
    """The namespaces; they, and all in them, end with its process."""

    name = 'host-2'
    shared = True

    @property
    def folder(self) -> pathlib.Path:
        return self.settings.root / 'host-2'

    @property
    def journal(self) -> pathlib.Path:
        """Return the directory of its driver's journal."""
        return self.folder / 'nova/snapdriver'

    def argv(self) -> list[str]:
        return ['unshare', '--mount', '--propagation', 'slave', '--pid',
                '--ipc', '--uts', '--fork', '--kill-child', 'sh', '-c',
                SCRIPT, str(self.folder), HOST,
                str(kvm.node(self.settings)), INIT,
                '' if self.shared else str(self.settings.instances)]

    def prepare(self) -> None:
        settings.make_directory(self.folder)
        settings.make_directory(self.folder / 'nova/lock')
        settings.make_directory(self.folder / 'instances')

    def ready(self) -> bool:
        return self.path('run/snapdriver-lab-2').exists()

    def stop(self) -> None:
        """Kill it: its first process ignores SIGTERM."""
        self.kill()
        super().stop()

    @property
    def pid(self) -> int:
        """Return its process on this side.

        :raises LabError: it is not up
        """
        record = self.record()
        if record is None:
            raise settings.LabError('the second host is not up', self.log)
        return record.pid

    def path(self, inside: str) -> pathlib.Path:
        """Return where one of its files is seen from here."""
        return pathlib.Path(f'/proc/{self.pid}/root', inside)

    def inside(self, *argv: str) -> list[str]:
        """Return a command that runs another in it."""
        own = f'/proc/{self.pid}/ns'
        return ['nsenter', f'--mount={own}/mnt', f'--ipc={own}/ipc',
                f'--uts={own}/uts', f'--pid={own}/pid_for_children', *argv]


class _Inside(process.Daemon):
    """A daemon of the second host."""

    def __init__(self, machine: Machine, name: str, *argv: str) -> None:
        super().__init__(machine.settings, name)
        self._machine = machine
        self._argv = argv

    def argv(self) -> list[str]:
        return self._machine.inside(*self._argv)


class _Virtlogd(_Inside):
    def ready(self) -> bool:
        return process.accepts(
            self._machine.path('run/libvirt/virtlogd-sock'))


class _Libvirtd(_Inside):
    def prepare(self) -> None:
        (self._machine.folder / 'etc/libvirt/libvirtd.conf').write_text(
            'unix_sock_group = "libvirt"\nunix_sock_rw_perms = "0770"\n'
            'auth_unix_ro = "none"\nauth_unix_rw = "none"\n'
            f'host_uuid = "{UUID}"\n'
            # For the first host's guests that migrate live.
            'listen_tls = 0\nlisten_tcp = 1\nauth_tcp = "none"\n'
            f'listen_addr = "{settings.ADDRESS}"\n'
            f'tcp_port = "{self.settings.ports.libvirt_tcp}"\n')

    def ready(self) -> bool:
        return not process.complaint(*self._machine.inside(
            *domain.VIRSH, 'version'))


class _Compute(services.NovaDaemon):
    """nova-compute of the second host."""

    def __init__(self, machine: Machine, choice: config.Compute) -> None:
        super().__init__(machine.settings, 'nova-compute-2', choice.mode)
        self._machine = machine
        self._environment = dict(choice.environment)

    def argv(self) -> list[str]:
        return self._machine.inside(
            self.settings.bin('nova-compute'), '--config-file',
            str(self.sources()[0]))

    def env(self) -> dict[str, str]:
        return {**super().env(), **self._environment}

    def sources(self) -> list[pathlib.Path]:
        return [self.settings.etc / 'nova/nova-compute-2.conf']


class SecondHost:
    """Brings it up, lets it die, and removes it."""

    def __init__(self, api: cloud.Cloud) -> None:
        self.api = api
        self.settings = api.settings
        self.machine = Machine(api.settings)

    def up(self, choice: config.Compute, virt_type: str,
           shared: bool = True) -> None:
        """Have it up with a driver, a mode and options.

        :param shared: whether it shares instances_path with the first host
        """
        self.machine.shared = shared
        self.machine.ensure()
        _Virtlogd(self.machine, 'virtlogd-2', '/usr/sbin/virtlogd').ensure()
        _Libvirtd(self.machine, 'libvirtd-2', '/usr/sbin/libvirtd',
                  '--listen').ensure()
        folder = self.machine.folder / 'nova'
        own = (('DEFAULT', 'host', HOST),
               ('DEFAULT', 'state_path', str(folder)),
               ('libvirt', 'live_migration_inbound_addr', settings.ADDRESS),
               ('oslo_concurrency', 'lock_path', str(folder / 'lock')))
        choice = dataclasses.replace(choice, options=choice.options + own)
        compute = _Compute(self.machine, choice)
        config.write(compute.sources()[0],
                     config.compute(self.settings, choice, virt_type))
        compute.ensure()
        self.force_down(False)

    def die(self) -> None:
        """End it and all in it at once, and tell Nova."""
        self.machine.stop()
        self.force_down(True)

    def remove(self) -> None:
        """End it, and have Nova forget it and its servers."""
        self.die()
        for server in self.api.servers():
            if server['OS-EXT-SRV-ATTR:host'] == HOST:
                self.api.delete_server(server['id'])
        for service in self._services():
            self.api.call('DELETE', 'compute', f'/os-services/{service}')
        # The next one is another host to Nova, with another compute_id.
        shutil.rmtree(self.machine.folder, ignore_errors=True)

    def domains(self) -> list[str]:
        """Return the names of its domains that run."""
        return process.output(*self.machine.inside(
            *domain.VIRSH, 'list', '--name')).split()

    def console(self, server: str) -> pathlib.Path:
        """Return where the console of a server on it is seen from here."""
        path = self.settings.instances / server / 'console.log'
        return self.machine.path(str(path.relative_to('/')))

    def left(self) -> list[str]:
        """Return the names of all its domains, and its journal's entries."""
        listed = process.output(*self.machine.inside(
            *domain.VIRSH, 'list', '--all', '--name')).split()
        return [f'left on the second host: {one}'
                for one in listed] + self.entries()

    def entries(self) -> list[str]:
        """Return the entries of its driver's journal."""
        if not self.machine.journal.exists():
            return []
        return [f'left on the second host: {one}'
                for one in os.listdir(self.machine.journal)]

    def force_down(self, down: bool) -> None:
        """Tell Nova whether it is down, before Nova would notice."""
        for service in self._services():
            self.api.call('PUT', 'compute', f'/os-services/{service}',
                          {'forced_down': down})

    def _services(self) -> list[str]:
        found = self.api.call(
            'GET', 'compute', f'/os-services?binary=nova-compute&host={HOST}')
        return [str(one['id']) for one in found['services']]

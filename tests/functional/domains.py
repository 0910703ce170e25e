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

"""Domains without an operating system: a QEMU, its disks, and no guest.

What a guest would write is written by QEMU itself, through its monitor.
"""

import json
import subprocess
import types
import uuid

import libvirt
import libvirt_qemu
from nova.virt.libvirt import guest as nova_guest

from nova_snapdriver import guest as snap_guest

XML = """
<domain type='qemu'>
  <name>%(name)s</name>
  <uuid>%(uuid)s</uuid>
  <memory unit='MiB'>64</memory>
  <os><type arch='x86_64' machine='q35'>hvm</type>%(firmware)s</os>
  <features><acpi/></features>
  <devices>
    %(disks)s
    %(channel)s
    <memballoon model='none'/>
  </devices>
</domain>
"""

DISK = """
<disk type='%(type)s' device='disk'>
  <driver name='qemu' type='%(format)s'/>
  <source %(attribute)s='%(path)s'/>
  <target dev='%(target)s' bus='virtio'/>
</disk>
"""

RBD = """
<disk type='network' device='disk'>
  <driver name='qemu' type='raw' cache='writeback'/>
  <source protocol='rbd' name='%(name)s'>
    <host name='127.0.0.1' port='%(port)d'/>
    <auth username='nova'><secret type='ceph' uuid='%(secret)s'/></auth>
  </source>
  <target dev='%(target)s' bus='virtio'/>
</disk>
"""

UEFI = """
<loader readonly='yes' type='pflash'>/usr/share/OVMF/OVMF_CODE_4M.fd</loader>
<nvram template='/usr/share/OVMF/OVMF_VARS_4M.fd'>%s</nvram>
"""

CHANNEL = """
<channel type='unix'>
  <target type='virtio' name='org.qemu.guest_agent.0'/>
</channel>
"""


def run(*command):
    """Run a program to its end and give its output."""
    return subprocess.run([str(part) for part in command], check=True,
                          capture_output=True, text=True).stdout


class LoopDevices:
    """Loop devices, detached at the end."""

    def __init__(self):
        self._attached = []

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        for device in self._attached:
            run('losetup', '-d', device)

    def attach(self, path):
        device = run('losetup', '--find', '--show', path).strip()
        self._attached.append(device)
        return device


class Domains:
    """Persistent domains, destroyed and undefined at the end."""

    def __init__(self, connection):
        self._connection = connection
        self._started = []

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        for domain in self._started:
            if domain.isActive():
                domain.destroy()
            domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE |
                                 libvirt.VIR_DOMAIN_UNDEFINE_NVRAM)

    def forget(self):
        """Leave them: somebody else removes them."""
        self._started.clear()

    def start(self, *disks, channel='', firmware=''):
        """Start a domain with disks of (path, format).

        Or of ((name, the cluster), 'rbd').
        """
        name = 'snapdriver-test-%s' % uuid.uuid4().hex[:8]
        xml = XML % {
            'name': name, 'uuid': uuid.uuid4(), 'channel': channel,
            'firmware': firmware,
            'disks': ''.join(
                _disk(path, disk_format, 'vd' + 'abcd'[number])
                for number, (path, disk_format) in enumerate(disks))}
        domain = self._connection.defineXML(xml)
        self._started.append(domain)
        domain.create()
        return Guest(domain)


def _disk(path, disk_format, target):
    if disk_format == 'rbd':
        name, cluster = path
        return RBD % {'name': name, 'port': cluster.port, 'target': target,
                      'secret': cluster.fsid}
    block = str(path).startswith('/dev/')
    return DISK % {'type': 'block' if block else 'file', 'path': path,
                   'attribute': 'dev' if block else 'file',
                   'format': disk_format, 'target': target}


class Guest:
    """A running domain."""

    def __init__(self, domain):
        self.domain = domain
        self.name = domain.name()
        self.instance = types.SimpleNamespace(uuid=domain.UUIDString())

    def wrapped(self):
        """The domain as the driver sees it."""
        return snap_guest.Guest(nova_guest.Guest(self.domain), self.instance)

    def write(self, pattern, offset, length, target='vda'):
        """Write as the guest would: a byte, over a range."""
        out = self._monitor('qemu-io -d %s "write -P %d %d %d"' % (
            self._device(target), pattern, offset, length))
        assert 'wrote' in out or not out.strip(), out

    def _device(self, target):
        for block in self._qmp('query-block'):
            if ('/' + self._alias(target) + '/') in block['qdev']:
                return block['qdev']
        raise AssertionError('no device %s' % target)

    def _alias(self, target):
        return 'virtio-disk%d' % 'abcd'.index(target[-1])

    def _monitor(self, command):
        return libvirt_qemu.qemuMonitorCommand(
            self.domain, command,
            libvirt_qemu.VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP)

    def _qmp(self, command):
        answer = libvirt_qemu.qemuMonitorCommand(
            self.domain, json.dumps({'execute': command}),
            libvirt_qemu.VIR_DOMAIN_QEMU_MONITOR_COMMAND_DEFAULT)
        return json.loads(answer)['return']

    def state(self):
        return self.domain.state()[0]

    def has_job(self):
        try:
            self.domain.backupGetXMLDesc(0)
        except libvirt.libvirtError as ex:
            assert ex.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN_BACKUP
            return False
        return True

    def assert_untouched(self, state=libvirt.VIR_DOMAIN_RUNNING):
        """It is what it was before the snapshot, and nothing is left."""
        assert self.domain.isPersistent()
        assert self.state() == state
        assert not self.has_job()
        for image in self._qmp('query-named-block-nodes'):
            assert 'scratch' not in image.get('file', '')

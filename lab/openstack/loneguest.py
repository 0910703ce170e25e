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

"""A guest in libvirt, without OpenStack: for `nova-snapdriver snapshot`."""

import shutil

from lab.openstack import domain
from lab.openstack import guest
from lab.openstack import packages
from lab.openstack import settings
from lab.openstack import stack
from lab.openstack import steps

NAME = 'snapdriver-guest'
MEMORY_MIB = 256
_XML = """
<domain type='{kind}'>
  <name>{name}</name>
  <memory unit='MiB'>{memory}</memory>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>{kernel}</kernel>
    <initrd>{initramfs}</initrd>
    <cmdline>{command_line}</cmdline>
  </os>
  <features><acpi/></features>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2'/>
      <source file='{disk}'/>
      <target dev='vda' bus='virtio'/>
    </disk>
    <channel type='unix'>
      <target type='virtio' name='org.qemu.guest_agent.0'/>
    </channel>
    <serial type='file'><source path='{folder}/console.log'/></serial>
    <memballoon model='none'/>
  </devices>
</domain>
"""


def boot(lab: stack.Stack) -> None:
    """Install what it needs, and have it running, with its own disk."""
    conf, step = lab.settings, steps.Step
    steps.run([
        step('system packages', lambda: packages.install_system(conf)),
        step('libvirt', lab.start_libvirt),
        step('guest image', lab.guest.build),
        step(NAME, lambda: _start(lab))])


def _start(lab: stack.Stack) -> str:
    known = domain.Domain(NAME)
    if NAME in domain.names():
        if known.state() == 'running':
            return 'runs'
        known.remove()
    # Where those of Nova's servers are, so that `down` removes it.
    folder = lab.settings.instances / NAME
    settings.make_directory(folder)
    disk = folder / 'disk.qcow2'
    shutil.copy(lab.guest.small_disk, disk)
    xml = folder / 'domain.xml'
    xml.write_text(_XML.format(
        kind=lab.guest.virt_type(lab.settings), name=NAME, memory=MEMORY_MIB,
        kernel=lab.guest.kernel, initramfs=lab.guest.initramfs,
        command_line=guest.COMMAND_LINE, disk=disk, folder=folder))
    domain.virsh('define', xml)
    known.start()
    known.wait_agent()
    return ''

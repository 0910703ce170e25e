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

"""Libvirt's side of a server, by virsh."""

import dataclasses
import json
import pathlib
import re
import typing

from lab.openstack import process
from lab.openstack import settings

VIRSH = ('virsh', '-q', '-c', 'qemu:///system')


def virsh(*words: str) -> str:
    """What virsh prints.

    :raises LabError: it failed, with its errors
    """
    return process.output(*VIRSH, *words)


def names() -> list[str]:
    """All domains, running or not."""
    return virsh('list', '--all', '--name').split()


@dataclasses.dataclass(frozen=True)
class Domain:
    """One domain, by its name."""

    name: str

    def info(self) -> dict[str, str]:
        """`virsh dominfo`, by its headings."""
        pairs = [line.partition(':')
                 for line in virsh('dominfo', self.name).splitlines()]
        return {pair[0]: pair[2].strip() for pair in pairs}

    def persistent(self) -> bool:
        """Whether libvirt keeps its definition when it stops."""
        return self.info()['Persistent'] == 'yes'

    def state(self) -> str:
        return self.info()['State']

    def has_backup_job(self) -> bool:
        try:
            virsh('backup-dumpxml', self.name)
        except settings.LabError as error:
            if 'backup' in str(error):
                return False
            raise
        return True

    def has_job(self) -> bool:
        """Whether any job runs: backup, migration, save."""
        first = virsh('domjobinfo', self.name).splitlines()[0]
        return 'None' not in first

    def xml(self) -> str:
        return virsh('dumpxml', self.name)

    def nvram(self) -> pathlib.Path:
        """The file of the firmware's variables; a UEFI guest has one."""
        found = re.search(r'<nvram.*>(.+)</nvram>', self.xml())
        assert found is not None
        return pathlib.Path(found[1])

    def agent(self, command: str, **arguments: object) -> typing.Any:
        """What the guest's agent answers to a command of its protocol.

        :raises LabError: it refuses, or does not answer in five seconds
        """
        line = json.dumps({'execute': command, 'arguments': arguments})
        said = virsh('qemu-agent-command', self.name, '--timeout', '5', line)
        return json.loads(said)['return']

    def agent_answers(self) -> bool:
        """Whether the guest's agent answers a ping."""
        try:
            self.agent('guest-ping')
        except settings.LabError:
            return False
        return True

    def start(self) -> None:
        virsh('start', self.name)

    def stop(self) -> None:
        """As if its plug were pulled."""
        virsh('destroy', self.name)

    def use_disk(self, path: pathlib.Path, xml: pathlib.Path) -> None:
        """Give it another file for its root disk, from its next start on.

        :param xml: where its new definition is to be written
        :raises LabError: its disk is not a file
        """
        text = virsh('dumpxml', '--inactive', self.name)
        changed, count = re.subn(r"<source file='[^']*'",
                                 f"<source file='{path}'", text, count=1)
        if not count:
            raise settings.LabError(f'no file in {text}')
        xml.write_text(changed)
        virsh('define', str(xml))

    def remove(self) -> None:
        """Stop and undefine it, whatever it does."""
        if self.state() != 'shut off':
            virsh('destroy', self.name)
        if self.name in names():
            virsh('undefine', self.name, '--nvram', '--managed-save',
                  '--snapshots-metadata', '--checkpoints-metadata')

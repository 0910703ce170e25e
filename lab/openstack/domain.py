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

"""A server's domain, by virsh."""

import dataclasses
import json
import pathlib
import re
import typing

from lab.openstack import process
from lab.openstack import settings

VIRSH = ('virsh', '-q', '-c', 'qemu:///system')
# Until the agent of a guest that has just booted is connected.
AGENT_TIMEOUT = 60.0
AGENT_CHANNEL = 'org.qemu.guest_agent.0'


def virsh(*words: process.Word) -> str:
    """Run virsh and return what it prints.

    :raises LabError: it failed
    """
    return process.output(*VIRSH, *words)


def names() -> list[str]:
    """Return the names of all domains, running or not."""
    return virsh('list', '--all', '--name').split()


@dataclasses.dataclass(frozen=True)
class Domain:
    """A domain, by name."""

    name: str

    def info(self) -> dict[str, str]:
        """Return `virsh dominfo`, by its headings."""
        pairs = [line.partition(':')
                 for line in virsh('dominfo', self.name).splitlines()]
        return {pair[0]: pair[2].strip() for pair in pairs}

    def persistent(self) -> bool:
        """Return whether its definition stays when it stops."""
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
        """Return whether a backup, migration or save runs."""
        first = virsh('domjobinfo', self.name).splitlines()[0]
        return 'None' not in first

    def xml(self, *options: str) -> str:
        return virsh('dumpxml', *options, self.name)

    def nvram(self) -> pathlib.Path:
        """Return the file of a UEFI guest's variables."""
        found = re.search(r'<nvram.*>(.+)</nvram>', self.xml())
        assert found is not None
        return pathlib.Path(found[1])

    def disk_format(self) -> str:
        """Return the root disk's format; it is never probed."""
        match = re.search(r"<driver name='qemu' type='(\w+)'", self.xml())
        return match[1] if match else 'raw'

    # The guest agent

    def agent(self, command: str, **arguments: object) -> typing.Any:
        """Send a command to the guest agent and return its answer.

        :raises LabError: it refuses, or does not answer in five seconds
        """
        line = json.dumps({'execute': command, 'arguments': arguments})
        said = virsh('qemu-agent-command', self.name, '--timeout', '5', line)
        return json.loads(said)['return']

    def agent_answers(self) -> bool:
        try:
            self.agent('guest-ping')
        except settings.LabError:
            return False
        return True

    def wait_agent(self) -> None:
        """Wait until the agent of a guest that has just booted answers.

        A domain without a channel for one has none.

        :raises LabError: it does not
        """
        if AGENT_CHANNEL not in self.xml():
            return
        process.wait_for(f'the agent of {self.name}', self.agent_answers,
                         AGENT_TIMEOUT)

    def freeze_status(self) -> str:
        """Return `thawed`, `frozen`, or why the agent cannot say."""
        try:
            return str(self.agent('guest-fsfreeze-status'))
        except settings.LabError as error:
            return str(error)

    # Its life

    def start(self) -> None:
        virsh('start', self.name)

    def pause(self) -> None:
        """Stop its CPUs. Nova calls its server active all the same."""
        virsh('suspend', self.name)

    def stop(self) -> None:
        """Stop it at once, as by a power failure."""
        virsh('destroy', self.name)

    def use_disk(self, path: process.Word, xml: pathlib.Path,
                 kind: str = 'file') -> None:
        """Define it with another root disk, from its next start on.

        :param xml: where to write the new definition
        :param kind: file or block
        :raises LabError: its root disk is not a file
        """
        source = 'dev' if kind == 'block' else 'file'
        changed, count = re.subn(
            r"<disk type='file' device='disk'>(.*?)<source file='[^']*'",
            rf"<disk type='{kind}' device='disk'>\1<source {source}='{path}'",
            self.xml('--inactive'), count=1, flags=re.DOTALL)
        if not count:
            raise settings.LabError(f'{self.name} has no disk in a file')
        xml.write_text(changed)
        virsh('define', xml)

    def remove(self) -> None:
        """Stop it and undefine it."""
        if self.state() != 'shut off':
            self.stop()
        if self.name in names():
            virsh('undefine', self.name, '--nvram', '--managed-save',
                  '--snapshots-metadata', '--checkpoints-metadata')

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
"""A server whose owner is hostile, and what becomes of its snapshots.

Its guest writes nothing but what it is told: it finds no file system on its
disk, and keeps its own files in memory. So even a guest that runs has a disk
that can be compared byte for byte.
"""

import base64
import dataclasses
import os
import pathlib
import random
import re
import time
import typing

from lab.attacks import hostile
from lab.observe import disks
from lab.observe import measure
from lab.openstack import cloud
from lab.openstack import config
from lab.openstack import process
from lab.openstack import services
from lab.openstack import settings
from lab.openstack import stack

NAME = 'snapdriver-attacks'
FLAVOR = f'{NAME}-flavor'
BOOT_TIMEOUT = 180.0
OUTCOME_TIMEOUT = 120.0
TRIES = 3
# Of the disk, the end: no header reaches it.
DATA_AT = hostile.DISK_BYTES - (2 << 20)
DATA_BYTES = 1 << 20
REFUSED = r'Glance answered 415'


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of a snapshot: an image, or words in the log."""

    image: cloud.Json
    #: What a guest would read from it.
    content: bytes
    #: What Glance has, byte for byte.
    stored: bytes
    log: str
    seconds: float


class Victim:
    """A server with one kind of disk.

    :param disk: of `observe.disks.DISKS`; nova-compute has its options
    """

    def __init__(self, lab: stack.Stack, folder: pathlib.Path, disk: str,
                 properties: dict[str, str] | None = None,
                 name: str = '') -> None:
        self.lab, self.api, self.disk = lab, lab.cloud, disk
        self.folder = folder
        self._written: list[hostile.Piece] = []
        self._loops: list[str] = []
        self._boot(name or f'{NAME}-{disk}', properties or {})

    # Life

    def _boot(self, name: str, properties: dict[str, str]) -> None:
        self._image = self.api.upload(
            properties.pop('name', f'{NAME}-base-{self.disk}'), 'qcow2',
            self._base(), **{**self.lab.boot_properties(), **properties})
        self.api.flavor(FLAVOR, stack.FLAVOR_RAM_MIB, 0)
        made = self.api.new_server(name, self._image, FLAVOR)
        self.api.wait_server(made)
        self.server = measure.server(self.api, made)
        self._wait_beat()
        if self.disk == 'block':
            self._loops = [disks.use_device(self.server,
                                            self.folder / 'domain.xml')]
            self._wait_beat()

    def _base(self) -> pathlib.Path:
        """An image with some data at its end, and nothing else."""
        raw, base = self.folder / 'base.raw', self.folder / 'base.qcow2'
        with open(raw, 'wb') as file:
            file.truncate(hostile.DISK_BYTES)
            file.seek(DATA_AT)
            file.write(random.Random(DATA_AT).randbytes(DATA_BYTES))
        process.output('qemu-img', 'convert', '-f', 'raw', '-O', 'qcow2',
                       str(raw), str(base))
        return base

    def _wait_beat(self) -> None:
        console = measure.Console(self.server.console, from_end=True)
        console.lines()
        console.wait(measure.BEAT, BOOT_TIMEOUT)

    def enter(self, state: str) -> None:
        """Have it running, or stopped."""
        status = self.api.server(self.server.id)['status']
        if state == 'stopped' and status == 'ACTIVE':
            self.api.action(self.server.id, 'os-stop')
            self.api.wait_server(self.server.id, 'SHUTOFF')
        if state == 'running' and status == 'SHUTOFF':
            self.api.action(self.server.id, 'os-start')
            self.api.wait_server(self.server.id)
            self._wait_beat()

    @property
    def runs(self) -> bool:
        return self.server.domain.state() == 'running'

    def remove(self) -> None:
        self.api.delete_server(self.server.id)
        self.api.delete_image(self._image)
        for loop in self._loops:
            process.output('losetup', '-d', loop)

    # Its disk

    def write(self, pieces: list[hostile.Piece]) -> None:
        """Write to the disk, over all that was written before."""
        wiped = [(offset, bytes(len(content)))
                 for offset, content in self._written]
        if self.runs:
            self._guest_writes([*wiped, *pieces])
        else:
            self._host_writes([*wiped, *pieces])
        self._written = pieces

    def _guest_writes(self, pieces: list[hostile.Piece]) -> None:
        handle = self._agent('guest-file-open', path='/dev/vda', mode='r+')
        for offset, content in pieces:
            self._agent('guest-file-seek', handle=handle, offset=offset,
                        whence=0)
            self._agent('guest-file-write', **{
                'handle': handle,
                'buf-b64': base64.b64encode(content).decode()})
        self._agent('guest-file-flush', handle=handle)
        self._agent('guest-file-close', handle=handle)
        # This device, as then QEMU, too, writes what it keeps in memory of a
        # qcow2 file.
        ran = self._agent('guest-exec', path='/bin/sync', arg=['/dev/vda'])
        process.wait_for(
            'sync in the guest', lambda: bool(self._agent(
                'guest-exec-status', pid=ran['pid'])['exited']), 60)

    def _agent(self, command: str, **arguments: object) -> typing.Any:
        """Ask the agent, again if the machine is slow."""
        for left in reversed(range(TRIES)):
            try:
                return self.server.domain.agent(command, **arguments)
            except settings.LabError:
                if not left:
                    raise

    def _host_writes(self, pieces: list[hostile.Piece]) -> None:
        """Write for a guest that is stopped, as it might have done."""
        content = self.folder / 'piece'
        for offset, data in pieces:
            content.write_bytes(data)
            process.output(
                'qemu-io', '-f', disks.FORMATS.get(self.disk, 'raw'), '-c',
                f'write -s {content} {offset} {len(data)}',
                str(self.server.disk))

    def content(self) -> bytes:
        """All of its disk."""
        return self._raw(self.server.disk,
                         disks.FORMATS.get(self.disk, 'raw'))

    def _raw(self, path: pathlib.Path, disk_format: str) -> bytes:
        target = self.folder / 'raw'
        # -U: QEMU has it open, and its guest does not write.
        process.output('qemu-img', 'convert', '-U', '-f', disk_format, '-O',
                       'raw', str(path), str(target))
        return target.read_bytes()

    # Its snapshots

    def snapshot(self, name: str = f'{NAME}-row',
                 metadata: dict[str, str] | None = None) -> Outcome:
        """Take one to its end, whatever that is."""
        log = measure.Said(self.lab.settings.log('nova-compute'))
        began = time.monotonic()
        image_id = self.begin(name, metadata)
        image = self.finish(image_id)
        seconds = round(time.monotonic() - began, 2)
        if image is None:
            return Outcome(None, b'', b'', log.text(), seconds)
        stored = self.folder / 'image'
        self.api.download(image_id, stored)
        self.api.delete_image(image_id)
        if image['disk_format'] == 'qcow2':
            process.output('qemu-img', 'check', '-f', 'qcow2', str(stored))
        return Outcome(image, self._raw(stored, image['disk_format']),
                       stored.read_bytes(), log.text(), seconds)

    def begin(self, name: str, metadata: dict[str, str] | None = None) -> str:
        reply = self.api.action(self.server.id, 'createImage', name=name,
                                metadata=metadata or {})
        return str(reply['image_id'])

    def finish(self, image_id: str) -> cloud.Json:
        """Wait for the end: the image, or none as it is gone."""
        found: list[cloud.Json] = []

        def ended() -> bool:
            found[:] = [self._image_or_none(image_id)]
            return found[0] is None or found[0]['status'] == 'active'

        process.wait_for(f'image {image_id}', ended, OUTCOME_TIMEOUT,
                         self.lab.settings.log('nova-compute'))
        self.api.wait_server(
            self.server.id, self.api.server(self.server.id)['status'])
        return found[0]

    def _image_or_none(self, image_id: str) -> cloud.Json:
        try:
            return self.api.image(image_id)
        except cloud.ApiError as error:
            if error.status != 404:
                raise
            return None

    def harmed(self, state: str) -> list[str]:
        """What is not as it was, or was left behind."""
        conf, defined = self.lab.settings, self.server.domain
        wanted = {'running': 'running', 'stopped': 'shut off'}[state]
        checks = {
            f'the server is {defined.state()}': defined.state() != wanted,
            # Libvirt has no jobs of a domain that does not run.
            'a job is left': state == 'running' and (
                defined.has_backup_job() or defined.has_job()),
            'the domain is transient': not defined.persistent(),
            'files are left': any(conf.snapshots.iterdir()),
            'a journal is left': any((conf.nova / 'snapdriver').iterdir()),
            'a child is left': bool(children(conf)),
            'the guest is not thawed': state == 'running' and self._agent(
                'guest-fsfreeze-status') != 'thawed'}
        return [words for words, wrong in checks.items() if wrong]


# The processes of nova-compute

STREAM = 'nova_snapdriver.stream'
# Not what becomes one of these in a moment, and has no limits yet.
OURS = re.compile(r'^(?:\S*/)?(qemu-(?:nbd|img|io)) |'
                  r'^\S*python\S* -P -m (nova_snapdriver\.stream) ')


@dataclasses.dataclass(frozen=True)
class Child:
    """A process that a snapshot has started."""

    pid: int
    command: str

    @property
    def program(self) -> str:
        found = OURS.search(self.command)
        return (found[1] or found[2]) if found else ''

    def read(self, name: str) -> str:
        """A file of /proc about it; empty where it is gone."""
        try:
            found = pathlib.Path(f'/proc/{self.pid}/{name}').read_bytes()
        except OSError:
            return ''
        return found.replace(b'\0', b'\n').decode(errors='replace')


def compute_pid(conf: settings.Settings) -> int:
    record = services.NovaCompute(conf, config.Compute()).record()
    if record is None:
        raise settings.LabError('nova-compute does not run')
    return record.pid


def children(conf: settings.Settings) -> list[Child]:
    """What nova-compute runs for snapshots, at any depth."""
    parents: dict[int, int] = {}
    for entry in os.listdir('/proc'):
        if entry.isdigit():
            try:
                stat = pathlib.Path(f'/proc/{entry}/stat').read_text()
            except OSError:
                continue
            parents[int(entry)] = int(stat.rpartition(')')[2].split()[1])
    ours = {compute_pid(conf)}
    before = 0
    while len(ours) != before:
        before = len(ours)
        ours |= {pid for pid, parent in parents.items() if parent in ours}
    found = [Child(pid, Child(pid, '').read('cmdline').replace('\n', ' '))
             for pid in ours]
    return [child for child in found if child.program]


def clean(lab: stack.Stack) -> None:
    """Remove what rows have made, or a run of before has left."""
    for one in cloud.named(lab.cloud.servers(), NAME):
        lab.cloud.delete_server(one['id'])
    for image in cloud.named(lab.cloud.images(), NAME):
        lab.cloud.delete_image(image['id'])

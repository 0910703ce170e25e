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

"""A server that is attacked.

Its guest writes only what it is told: it finds no file system on its disk,
and keeps its own files in memory. So the disk of a guest that runs, too, can
be compared byte for byte.
"""

import base64
import dataclasses
import pathlib
import random
import re
import time
import typing

from lab.attacks import hostile
from lab.observe import disks
from lab.observe import measure
from lab.observe import processes
from lab.observe import remains
from lab.openstack import cloud
from lab.openstack import domain
from lab.openstack import process
from lab.openstack import settings
from lab.openstack import stack

NAME = 'snapdriver-attacks'
FLAVOR = f'{NAME}-flavor'
OUTCOME_TIMEOUT = 120.0
TRIES = 3
# At the end of the disk, where no header reaches.
DATA_AT = hostile.DISK_BYTES - (2 << 20)
DATA_BYTES = 1 << 20
# By Glance, or before the upload for the same reason.
REFUSED = re.compile('Glance answer(?:s|ed) 415')
STATES = {'running': 'running', 'stopped': 'shut off'}


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The end of a snapshot."""

    #: None if it failed.
    image: cloud.Json
    #: What a guest would read from it.
    content: bytes
    #: What Glance stores.
    stored: bytes
    log: str
    seconds: float


class Victim:
    """A server with one kind of disk.

    :param disk: of `disks.DISKS`; nova-compute has its options
    :param properties: of its image
    """

    def __init__(self, lab: stack.Stack, folder: pathlib.Path, disk: str,
                 properties: dict[str, str] | None = None,
                 name: str = '') -> None:
        self.lab, self.api, self.disk = lab, lab.cloud, disk
        self.folder = folder
        self._written: list[hostile.Piece] = []
        self._loops: list[str] = []
        self._boot(name or f'{NAME}-{disk}', properties or {})

    @property
    def conf(self) -> settings.Settings:
        return self.lab.settings

    # Its life

    def _boot(self, name: str, properties: dict[str, str]) -> None:
        self._image = self.api.upload(
            properties.pop('name', f'{NAME}-base-{self.disk}'), 'qcow2',
            self._base(), **{**self.lab.boot_properties(), **properties})
        self.api.flavor(FLAVOR, stack.FLAVOR_RAM_MIB, 0)
        self.server = measure.boot(self.api, name, self._image, FLAVOR)
        self.server.wait_beat()
        if self.disk == 'block':
            self._loops = [disks.use_device(self.server,
                                            self.folder / 'domain.xml')]
            self.server.wait_beat()

    def _base(self) -> pathlib.Path:
        """Make an image with some data at its end."""
        raw, base = self.folder / 'base.raw', self.folder / 'base.qcow2'
        with open(raw, 'wb') as file:
            file.truncate(hostile.DISK_BYTES)
            file.seek(DATA_AT)
            file.write(random.Random(DATA_AT).randbytes(DATA_BYTES))
        process.output('qemu-img', 'convert', '-f', 'raw', '-O', 'qcow2',
                       raw, base)
        return base

    def enter(self, state: str) -> None:
        """Have it running, or stopped."""
        status = self.api.server(self.server.id)['status']
        if state == 'stopped' and status == 'ACTIVE':
            self.api.change(self.server.id, 'os-stop', 'SHUTOFF')
        if state == 'running' and status == 'SHUTOFF':
            self.api.change(self.server.id, 'os-start', 'ACTIVE')
            self.server.wait_beat()

    def remove(self) -> None:
        self.api.delete_server(self.server.id)
        self.api.delete_image(self._image)
        for loop in self._loops:
            process.output('losetup', '-d', loop)

    # Its disk

    def write(self, pieces: list[hostile.Piece]) -> None:
        """Write to the disk, and zero what was written before."""
        zeros = [(offset, bytes(len(content)))
                 for offset, content in self._written]
        if self.server.domain.state() == 'running':
            self._guest_writes([*zeros, *pieces])
        else:
            self._host_writes([*zeros, *pieces])
        self._written = pieces

    def _guest_writes(self, pieces: list[hostile.Piece]) -> None:
        self.server.domain.wait_agent()
        handle = self._agent('guest-file-open', path='/dev/vda', mode='r+')
        for offset, content in pieces:
            self._agent('guest-file-seek', handle=handle, offset=offset,
                        whence=0)
            self._agent('guest-file-write', **{
                'handle': handle,
                'buf-b64': base64.b64encode(content).decode()})
        self._agent('guest-file-flush', handle=handle)
        self._agent('guest-file-close', handle=handle)
        # The device, so that QEMU writes a qcow2 file's metadata, too.
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
        """Write for a guest that is stopped."""
        content = self.folder / 'piece'
        for offset, data in pieces:
            content.write_bytes(data)
            process.output(
                'qemu-io', '-f', disks.disk_format(self.disk), '-c',
                f'write -s {content} {offset} {len(data)}', self.server.disk)

    def content(self) -> bytes:
        """Return all of its disk."""
        return self._raw(self.server.disk, disks.disk_format(self.disk))

    def _raw(self, path: pathlib.Path, disk_format: str) -> bytes:
        target = self.folder / 'raw'
        # -U: QEMU has it open, and its guest does not write.
        process.output('qemu-img', 'convert', '-U', '-f', disk_format, '-O',
                       'raw', path, target)
        return target.read_bytes()

    # Its snapshots

    def snapshot(self, name: str = f'{NAME}-row',
                 metadata: dict[str, str] | None = None) -> Outcome:
        """Take a snapshot to its end, and delete its image."""
        log = measure.Said(self.conf.log('nova-compute'))
        began = time.monotonic()
        image_id = self.api.create_image(self.server.id, name, metadata)
        image = self.finish(image_id)
        seconds = round(time.monotonic() - began, 2)
        if image is None:
            return Outcome(None, b'', b'', log.text(), seconds)
        stored = self.folder / 'image'
        self.api.download(image_id, stored)
        self.api.delete_image(image_id)
        if image['disk_format'] == 'qcow2':
            process.output('qemu-img', 'check', '-f', 'qcow2', stored)
        return Outcome(image, self._raw(stored, image['disk_format']),
                       stored.read_bytes(), log.text(), seconds)

    def finish(self, image_id: str) -> cloud.Json:
        """Wait for the end; return the image, or None if it is gone."""
        found: list[cloud.Json] = []

        def ended() -> bool:
            found[:] = [self._image_or_none(image_id)]
            return found[0] is None or found[0]['status'] == 'active'

        process.wait_for(f'image {image_id}', ended, OUTCOME_TIMEOUT,
                         self.conf.log('nova-compute'))
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
        """Return what is not as before, or was left behind."""
        found = [f'the server {words}' for words in
                 remains.of_domain(self.server.domain, STATES[state])]
        found += remains.on_host(self.conf)
        found += [f'{program} is left' for program in
                  children(self.conf).values()]
        if state == 'running' and not process.becomes(
                lambda: self.server.domain.freeze_status() == 'thawed',
                domain.AGENT_TIMEOUT):
            found.append(f'the guest is {self.server.domain.freeze_status()}')
        return found


STREAM = 'nova_snapdriver.stream'
# A program that prlimit is about to run does not count: it has no limits yet.
PROGRAM = re.compile(r'^(?:\S*/)?(qemu-(?:nbd|img|io)) |'
                     r'^\S*python\S* -P -m (nova_snapdriver\.stream) ')


def children(conf: settings.Settings) -> dict[processes.Process, str]:
    """Return what nova-compute runs for snapshots, at any depth.

    :returns: programs, by process
    """
    found = {one: PROGRAM.search(processes.command(one))
             for one in processes.compute(conf).children(recursive=True)}
    return {one: match[1] or match[2]
            for one, match in found.items() if match}

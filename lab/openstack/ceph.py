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

"""Run a one-node Ceph: a monitor, a manager and an OSD in memory.

From the distribution's packages, on loopback and in one folder.
"""

import contextlib
import json
import pathlib
import shutil
from typing import Self
import uuid

from lab.openstack import domain
from lab.openstack import process
from lab.openstack import settings

#: The pools of Nova's disks and of Glance's images.
DISKS = 'vms'
IMAGES = 'images'
#: The users of Nova and its QEMUs, and of Glance. Only root reads their keys;
#: libvirt has Nova's, for QEMU, as a secret with the cluster's id.
NOVA = 'nova'
GLANCE = 'glance'
#: The OSD's capacity. It takes as much memory as is written.
STORE_BYTES = 8 << 30
# Placement groups of a pool, of one OSD.
_GROUPS = 8
_COMMAND_SECONDS = 60

_CONF = """\
[global]
fsid = {fsid}
mon host = [v2:{address}:{msgr2},v1:{address}:{msgr1}]
mon initial members = lab
ms bind ipv6 = false
public addr = {address}
public network = {address}/32
cluster network = {address}/32
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
osd pool default size = 1
osd pool default min size = 1
osd crush chooseleaf type = 0
osd objectstore = memstore
memstore device bytes = {store}
mon allow pool size one = true
mon warn on pool no redundancy = false
mon data avail crit = 1
mon allow pool delete = true
mgr initial modules =
pid file = {folder}/run/$type.$id.pid
run dir = {folder}/run
admin socket = {folder}/run/$type.$id.asok
log file = {folder}/log/$type.$id.log
mon cluster log file = {folder}/log/cluster.log
mon data = {folder}/mon
osd data = {folder}/osd
mgr data = {folder}/mgr
crash dir = {folder}/crash
keyring = {folder}/keyring

[client]
# Clients may run as other users, and need none of these.
log file =
admin socket =
"""


# What a daemon's status contains once it is ready.
_READY = {'mon': 'quorum', 'mgr': '"available": true', 'osd': '1 up'}
_POOL = 'profile rbd pool='
_MAY: dict[str, dict[str, str]] = {
    'mon.': {'mon': 'allow *'},
    'mgr.lab': {'mon': 'allow profile mgr', 'osd': 'allow *'},
    'osd.0': {'mon': 'allow profile osd', 'mgr': 'allow profile osd',
              'osd': 'allow *'},
    'client.admin': {'mon': 'allow *', 'mgr': 'allow *', 'osd': 'allow *'},
    f'client.{NOVA}': {'mon': 'profile rbd',
                       'osd': f'{_POOL}{DISKS}, {_POOL}{IMAGES}'},
    f'client.{GLANCE}': {'mon': 'profile rbd', 'osd': f'{_POOL}{IMAGES}'},
}

_SECRET = """
<secret ephemeral='no' private='no'>
  <uuid>{fsid}</uuid>
  <usage type='ceph'><name>client.{user} of {fsid}</name></usage>
</secret>
"""


class _Daemon(process.Daemon):
    """A daemon of Ceph."""

    def __init__(self, conf: settings.Settings, ceph: 'Ceph', kind: str,
                 ident: str) -> None:
        super().__init__(conf, f'ceph-{kind}')
        self._ceph = ceph
        self._kind = kind
        self._id = ident

    def argv(self) -> list[str]:
        return [f'/usr/bin/ceph-{self._kind}', '-f', '-i', self._id,
                '--conf', str(self._ceph.conf)]

    def ready(self) -> bool:
        """Return whether the monitor has it as up."""
        try:
            text = self._ceph.command(self._kind, 'stat', timeout=10)
        except settings.LabError:
            return False
        return _READY[self._kind] in text


class Ceph:
    """The cluster; as a context manager it is removed in the end."""

    def __init__(self, conf: settings.Settings) -> None:
        self._settings = conf
        self.conf = conf.ceph_conf
        self.folder = self.conf.parent
        self.daemons = {kind: _Daemon(conf, self, kind, ident)
                        for kind, ident in (('mon', 'lab'), ('mgr', 'lab'),
                                            ('osd', '0'))}

    @property
    def port(self) -> int:
        """Return the monitor's, of the older protocol, for clients."""
        return self._settings.ports.ceph

    @property
    def made(self) -> bool:
        """Return whether there is a cluster, up or not."""
        return self.conf.exists()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def start(self) -> str:
        """Have it up, with its pools.

        An OSD loses its data when it ends: a cluster that is not up as a
        whole is made again.

        :returns: `runs` if it was up
        :raises LabError: it does not come up
        """
        if self.made and all(daemon.record() is not None and daemon.ready()
                             for daemon in self.daemons.values()):
            return 'runs'
        self.stop()
        self._configure()
        self._make_keys()
        self._start_monitor()
        self.daemons['mgr'].start()
        self._start_osd()
        for pool in (DISKS, IMAGES):
            self.command('osd', 'pool', 'create', pool, str(_GROUPS))
            self.command('osd', 'pool', 'application', 'enable', pool, 'rbd')
        return ''

    def stop(self) -> None:
        """End its daemons and remove its files. Idempotent."""
        for daemon in reversed(self.daemons.values()):
            # It has nothing to save, and a shutdown takes seconds.
            daemon.kill()
            daemon.stop()
        if self.made:
            with contextlib.suppress(settings.LabError):
                domain.virsh('secret-undefine', self.fsid)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _configure(self) -> None:
        settings.make_directory(self.folder)
        for name in ('run', 'log', 'mon', 'osd', 'mgr', 'crash'):
            settings.make_directory(self.folder / name)
        self.conf.write_text(_CONF.format(
            fsid=uuid.uuid4(), address=settings.ADDRESS,
            msgr1=self.port, msgr2=self.port + 1, store=STORE_BYTES,
            folder=self.folder))

    @property
    def _keyring(self) -> pathlib.Path:
        return self.folder / 'keyring'

    def _make_keys(self) -> None:
        """Make the keys for the monitor, and libvirt's secret for QEMU."""
        for number, (name, may) in enumerate(_MAY.items()):
            caps = [word for pair in may.items() for word in ('--cap', *pair)]
            self._run('ceph-authtool', self._keyring, '--name', name,
                      '--gen-key', *caps,
                      *([] if number else ['--create-keyring']))
        xml = self.folder / 'secret.xml'
        xml.write_text(_SECRET.format(fsid=self.fsid, user=NOVA))
        domain.virsh('secret-define', xml)
        key = process.output('ceph-authtool', self._keyring, '--name',
                             f'client.{NOVA}', '--print-key')
        file = self.folder / 'key'
        file.touch(mode=0o600)
        file.write_text(key.strip())
        domain.virsh('secret-set-value', self.fsid, '--file', file)

    def _start_monitor(self) -> None:
        monmap = self.folder / 'monmap'
        addresses = (f'[v2:{settings.ADDRESS}:{self.port + 1},'
                     f'v1:{settings.ADDRESS}:{self.port}]')
        self._run('monmaptool', '--create', '--fsid', self.fsid,
                  '--addv', 'lab', addresses, monmap)
        self._run('ceph-mon', '--mkfs', '-i', 'lab', '--monmap', monmap,
                  '--conf', self.conf, '--keyring', self._keyring)
        self.daemons['mon'].start()

    def _start_osd(self) -> None:
        osd = str(uuid.uuid4())
        self.command('osd', 'new', osd)
        self._run('ceph-osd', '--mkfs', '-i', '0', '--osd-uuid', osd,
                  '--conf', self.conf)
        self.daemons['osd'].start()

    def make_user(self, name: str, **may: str) -> None:
        """Have a user with capabilities, and its key in the keyring."""
        if f'[client.{name}]' in self._keyring.read_text():
            return
        entry = self.command('auth', 'get-or-create', f'client.{name}',
                             *(word for pair in may.items() for word in pair))
        with open(self._keyring, 'a') as file:
            file.write(entry)

    @property
    def fsid(self) -> str:
        lines = self.conf.read_text().splitlines()
        return next(line for line in lines
                    if line.startswith('fsid')).split()[-1]

    def _run(self, *argv: process.Word) -> None:
        process.run(self._settings.log('ceph'), *argv,
                    timeout=_COMMAND_SECONDS)

    def command(self, *words: str, timeout: float = _COMMAND_SECONDS) -> str:
        """Run `ceph` and return what it prints.

        :raises LabError: it failed
        """
        return process.output('ceph', '--conf', self.conf,
                              '--connect-timeout', '5', *words,
                              timeout=timeout)

    def listed(self, *words: str) -> list[str]:
        """Return the names that `rbd ls` or `rbd snap ls` lists."""
        found = json.loads(self.rbd(*words, '--format', 'json'))
        return [one if isinstance(one, str) else one['name'] for one in found]

    def export(self, name: str, path: pathlib.Path) -> pathlib.Path:
        """Copy a disk to a file, with what is in its QEMU's cache.

        :param name: POOL/IMAGE
        """
        # librbd flushes its cache before a snapshot.
        snapshot = f'{name}@exported'
        path.unlink(missing_ok=True)
        self.rbd('snap', 'create', snapshot)
        try:
            self.rbd('export', snapshot, str(path))
        finally:
            self.rbd('snap', 'rm', snapshot)
        return path

    def rbd(self, *words: str, timeout: float = 300) -> str:
        """Run `rbd` and return what it prints.

        :raises LabError: it failed
        """
        return process.output('rbd', '--conf', self.conf, *words,
                              timeout=timeout)

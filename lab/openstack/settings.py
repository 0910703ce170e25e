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

"""The lab's directory, ports and password.

Services listen on loopback, on ports of their own, so that a MariaDB or a
Keystone which the machine runs already is not disturbed.
"""

import dataclasses
import os
import pathlib
import secrets

ADDRESS = '127.0.0.1'
REGION = 'RegionOne'
# Of the one compute host, whatever the machine's name is.
COMPUTE_HOST = 'snapdriver-lab'
DEFAULT_ROOT = '/var/lib/nova-snapdriver-lab'
# Marks a directory as a lab, which `down` may remove.
MARKER = '.nova-snapdriver-lab'
# A snapshot's socket, ROOT/instances/snapshots/snapdriver-01234567/nbd, has
# 44 bytes after ROOT, MariaDB's and libvirt's have less; a unix socket's path
# has 107 at most.
MAX_ROOT_BYTES = 60
NO_PROXY = dict.fromkeys(('NO_PROXY', 'no_proxy'), f'{ADDRESS},localhost')


class LabError(Exception):
    """The lab failed; `log` is the file with details, if there is one."""

    def __init__(self, message: str,
                 log: pathlib.Path | None = None) -> None:
        super().__init__(message)
        self.log = log


@dataclasses.dataclass(frozen=True)
class Ports:
    """TCP ports of the services, on loopback."""

    keystone: int = 25000
    glance: int = 29292
    placement: int = 28778
    neutron: int = 29696
    nova: int = 28774
    mariadb: int = 23306
    rabbitmq: int = 25672
    rabbitmq_distribution: int = 25673
    epmd: int = 24369
    memcached: int = 21211
    # The monitor also listens on the next one, for its second protocol.
    ceph: int = 26789
    libvirt_tls: int = 26514
    #: Of the second compute host, for live migration to it.
    libvirt_tcp: int = 26509
    #: Of the proxy before Glance, see proxy.py.
    proxy: int = 29293


class Settings:
    """Paths, ports and accounts of one lab.

    :param password: of all accounts
    """

    def __init__(self, root: pathlib.Path, checkout: pathlib.Path,
                 password: str, ports: Ports = Ports()) -> None:
        self.root, self.checkout = root, checkout
        self.password, self.ports = password, ports
        self.logs = root / 'logs'
        self.etc = root / 'etc'
        #: Pid files, and stamps of finished steps.
        self.state = root / 'state'
        self.venv = root / 'venv'
        self.nova = root / 'nova'
        self.instances = root / 'instances'
        #: Nova's default of [libvirt] snapshots_directory.
        self.snapshots = self.instances / 'snapshots'
        #: A small file system for `lab/run faults`, mounted meanwhile.
        self.small = root / 'faults/small'
        #: Certificates and keys, root's alone.
        self.libvirt_pki = self.etc / 'libvirt-pki'
        #: The cluster is in its directory; without it there is none.
        self.ceph_conf = root / 'ceph/ceph.conf'

    def bin(self, name: str) -> str:
        """Return the path of a command in the virtual environment."""
        return str(self.venv / 'bin' / name)

    def log(self, name: str) -> pathlib.Path:
        return self.logs / f'{name}.log'

    def url(self, service: str) -> str:
        """Return the URL of a service's API, without a trailing slash."""
        path = {'keystone': '/v3', 'nova': '/v2.1'}.get(service, '')
        port = getattr(self.ports, service)
        return f'http://{ADDRESS}:{port}{path}'

    def libvirt_tls(self) -> str:
        """Return the URI of libvirtd by TLS."""
        return (f'qemu+tls://{ADDRESS}:{self.ports.libvirt_tls}/system'
                f'?pkipath={self.libvirt_pki}')

    def database(self, name: str) -> str:
        """Return SQLAlchemy's URL of a database."""
        return (f'mysql+pymysql://lab:{self.password}@{ADDRESS}:'
                f'{self.ports.mariadb}/{name}?charset=utf8mb4')

    def transport(self) -> str:
        """Return oslo.messaging's URL of RabbitMQ."""
        return (f'rabbit://lab:{self.password}@{ADDRESS}:'
                f'{self.ports.rabbitmq}/')


def environment() -> dict[str, str]:
    """Return the environment of child processes.

    Without a proxy for loopback, and without the caller's Python settings.
    """
    dropped = ('PYTHON', 'OS_', 'VIRTUAL_ENV')
    kept = {name: value for name, value in os.environ.items()
            if not name.startswith(dropped)}
    kept.setdefault('HOME', '/root')
    return {**kept, **NO_PROXY}


def make_directory(path: pathlib.Path, mode: int = 0o755) -> None:
    """Make a directory with exactly this mode, whatever the umask.

    QEMU runs as a user of its own and has to traverse it.
    """
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(mode)


def _claim(root: pathlib.Path) -> None:
    """Make the lab's directory, or check that it is one.

    :raises LabError: it holds other files, which `down` would remove, or its
        path is too long
    """
    if len(os.fsencode(root)) > MAX_ROOT_BYTES:
        raise LabError(f'{root} has more than {MAX_ROOT_BYTES} characters:'
                       ' too long for the sockets in it')
    if root.exists() and any(root.iterdir()):
        if not (root / MARKER).exists():
            raise LabError(f'{root} is not empty, and no lab')
    make_directory(root)
    (root / MARKER).touch()


def _password(root: pathlib.Path) -> str:
    """Return the password of all accounts; generate it on first use."""
    path = root / 'password'
    if not path.exists():
        path.touch(mode=0o600)
        path.write_text(secrets.token_hex(12))
    return path.read_text()


def load() -> Settings:
    """Create the lab's directories where they are missing.

    :raises LabError: the directory cannot be a lab
    """
    os.umask(0o022)
    os.environ.update(NO_PROXY)
    root = pathlib.Path(os.environ.get('SNAPDRIVER_LAB', DEFAULT_ROOT))
    root = root.absolute()
    _claim(root)
    settings = Settings(
        root=root, password=_password(root),
        checkout=pathlib.Path(__file__).resolve().parents[2])
    for path in (settings.logs, settings.etc, settings.state,
                 settings.nova, settings.instances):
        make_directory(path)
    return settings

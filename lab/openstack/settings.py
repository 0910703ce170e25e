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

"""Where everything of the lab is: one directory, ports and a password.

The lab's services listen on loopback only, and on ports of their own, so
that a MariaDB or a Keystone that the machine runs anyway is not disturbed.
"""

import dataclasses
import os
import pathlib
import secrets

ADDRESS = '127.0.0.1'
REGION = 'RegionOne'
# The name of the one compute host, whatever the machine is called.
COMPUTE_HOST = 'snapdriver-lab'
DEFAULT_ROOT = '/var/lib/nova-snapdriver-lab'
# Says that a directory is a lab, and may be removed as one.
MARKER = '.nova-snapdriver-lab'
# A snapshot's socket, ROOT/instances/snapshots/snapdriver-01234567/nbd, has
# 44 bytes after ROOT, MariaDB's and libvirt's have less; a unix socket's path
# has 107 at most.
MAX_ROOT_BYTES = 60


class LabError(Exception):
    """Something failed; `log` names the file that tells more."""

    def __init__(self, message: str,
                 log: pathlib.Path | None = None) -> None:
        super().__init__(message)
        self.log = log


@dataclasses.dataclass(frozen=True)
class Ports:
    """TCP ports on loopback."""

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
    # The next one is the monitor's, too: it speaks two protocols.
    ceph: int = 26789
    #: In front of Glance, while faults are tried.
    proxy: int = 29293


@dataclasses.dataclass(frozen=True)
class Settings:
    """The lab's directory, the checkout it tests, and what follows."""

    root: pathlib.Path
    checkout: pathlib.Path
    password: str
    ports: Ports = Ports()

    @property
    def logs(self) -> pathlib.Path:
        return self.root / 'logs'

    @property
    def etc(self) -> pathlib.Path:
        return self.root / 'etc'

    @property
    def state(self) -> pathlib.Path:
        """Pid files and stamps of what was done."""
        return self.root / 'state'

    @property
    def venv(self) -> pathlib.Path:
        return self.root / 'venv'

    @property
    def nova(self) -> pathlib.Path:
        return self.root / 'nova'

    @property
    def instances(self) -> pathlib.Path:
        """Short: the name of a unix socket in it has at most 107 bytes."""
        return self.root / 'instances'

    @property
    def ceph_conf(self) -> pathlib.Path:
        """Beside it is all of the cluster; there is none without it."""
        return self.root / 'ceph/ceph.conf'

    @property
    def snapshots(self) -> pathlib.Path:
        """Nova's default for [libvirt] snapshots_directory."""
        return self.instances / 'snapshots'

    def bin(self, name: str) -> str:
        """The path of a command of the virtual environment."""
        return str(self.venv / 'bin' / name)

    def log(self, name: str) -> pathlib.Path:
        return self.logs / f'{name}.log'

    def url(self, service: str) -> str:
        """The address of a service's API, without a trailing slash."""
        path = {'keystone': '/v3', 'nova': '/v2.1'}.get(service, '')
        port = getattr(self.ports, service)
        return f'http://{ADDRESS}:{port}{path}'

    def database(self, name: str) -> str:
        """SQLAlchemy's URL of one database."""
        return (f'mysql+pymysql://lab:{self.password}@{ADDRESS}:'
                f'{self.ports.mariadb}/{name}?charset=utf8mb4')

    def transport(self) -> str:
        """oslo.messaging's URL of the message queue."""
        return (f'rabbit://lab:{self.password}@{ADDRESS}:'
                f'{self.ports.rabbitmq}/')


def environment() -> dict[str, str]:
    """A child's environment: no proxy for loopback, nobody else's Python."""
    dropped = ('PYTHON', 'OS_', 'VIRTUAL_ENV')
    kept = {name: value for name, value in os.environ.items()
            if not name.startswith(dropped)}
    kept.setdefault('HOME', '/root')
    kept['NO_PROXY'] = kept['no_proxy'] = f'{ADDRESS},localhost'
    return kept


def make_directory(path: pathlib.Path, mode: int = 0o755) -> None:
    """Make a directory with just this mode, whatever the umask is.

    libvirt's QEMU runs as a user of its own, and needs to pass.
    """
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(mode)


def _claim(root: pathlib.Path) -> None:
    """Make the lab's directory, or see that it is one.

    :raises LabError: it holds something else, which `down` would remove,
        or its path is too long
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
    """The password of all the lab's accounts, made up once."""
    path = root / 'password'
    if not path.exists():
        path.touch(mode=0o600)
        path.write_text(secrets.token_hex(12))
    return path.read_text()


def load() -> Settings:
    """Make the lab's directory where it is missing, and say what is in it."""
    os.umask(0o022)
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

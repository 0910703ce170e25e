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

"""What the lab installs: the system's packages and a virtual environment."""

import collections.abc
import contextlib
import hashlib
import pathlib
import subprocess

from lab.openstack import process
from lab.openstack import settings

PACKAGES = (
    'build-essential', 'busybox-static', 'ca-certificates', 'ceph-common',
    'ceph-mgr', 'ceph-mon', 'ceph-osd', 'cpio', 'curl',
    'e2fsprogs', 'genisoimage', 'git', 'kmod', 'libnbd-bin', 'libvirt-clients',
    'libvirt-daemon', 'libvirt-daemon-driver-qemu',
    'libvirt-daemon-system', 'libvirt-dev', 'mariadb-server', 'memcached',
    'nbdkit', 'ovmf', 'pkg-config', 'python3-dev', 'python3-libnbd',
    'python3-rados', 'python3-rbd',
    'python3-venv', 'qemu-block-extra', 'qemu-guest-agent',
    'qemu-system-x86', 'qemu-utils', 'rabbitmq-server', 'sudo', 'xfsprogs')
# The guest's kernel: small, and with virtio.
KERNEL_PACKAGES = {'debian': ('linux-image-cloud-amd64',),
                   'ubuntu': ('linux-image-virtual', 'zstd')}

# One release of OpenStack, the one that the project is tested with.
REQUIREMENTS = (
    'nova>=34,<35', 'glance>=33,<34', 'keystone>=30,<31',
    'openstack-placement>=16,<17', 'neutron>=29,<30',
    'python-openstackclient', 'libvirt-python', 'uwsgi', 'pymysql',
    'python-memcached')

POLICY = pathlib.Path('/usr/sbin/policy-rc.d')


def distribution() -> str:
    """`debian` or `ubuntu`.

    :raises LabError: another one, whose packages have other names
    """
    lines = pathlib.Path('/etc/os-release').read_text().splitlines()
    release = dict(line.split('=', 1) for line in lines if '=' in line)
    name = release.get('ID', '').strip('"')
    if name not in KERNEL_PACKAGES:
        raise settings.LabError(
            f'the lab runs on Debian and Ubuntu, not on {name!r}')
    return name


def missing() -> list[str]:
    """The packages that are not installed yet."""
    wanted = PACKAGES + KERNEL_PACKAGES[distribution()]
    return [name for name in wanted if not _installed(name)]


def _installed(name: str) -> bool:
    done = subprocess.run(
        ['dpkg-query', '-W', '-f', '${db:Status-Status}', name],
        capture_output=True, text=True)
    return done.stdout == 'installed'


@contextlib.contextmanager
def _no_autostart() -> collections.abc.Iterator[None]:
    """Keep packages from starting their services: the lab has its own."""
    if POLICY.exists():
        yield
        return
    POLICY.write_text('#!/bin/sh\nexit 101\n')
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink()


def install_system(conf: settings.Settings) -> str:
    """Install the packages that are missing."""
    names = missing()
    if not names:
        return 'there'
    log = conf.log('apt')
    env = {'DEBIAN_FRONTEND': 'noninteractive'}
    with _no_autostart():
        process.run(log, 'apt-get', 'update', env=env)
        process.run(log, 'apt-get', 'install', '-y',
                    '--no-install-recommends', *names, env=env)
    return f'{len(names)} packages'


def _test_requirements(conf: settings.Settings) -> pathlib.Path | None:
    path = conf.checkout / 'test-requirements.txt'
    return path if path.exists() else None


def _wanted(conf: settings.Settings) -> str:
    """Changes whenever the environment has to be installed again."""
    known = hashlib.sha256(repr((str(conf.checkout), REQUIREMENTS)).encode())
    for name in ('requirements.txt', 'test-requirements.txt', 'setup.cfg',
                 'pyproject.toml'):
        path = conf.checkout / name
        known.update(path.read_bytes() if path.exists() else b'-')
    return known.hexdigest()


def releases() -> str:
    """Changes with OpenStack's releases, not with this checkout."""
    return hashlib.sha256(repr(REQUIREMENTS).encode()).hexdigest()


def _installed_venv(conf: settings.Settings) -> str:
    """The stamp of what is installed; empty when nothing is."""
    try:
        return (conf.state / 'venv').read_text()
    except FileNotFoundError:
        return ''


def install_venv(conf: settings.Settings) -> str:
    """Make the virtual environment, with this checkout in it, editable.

    It is made from the system's Python and sees the system's packages,
    for python3-libnbd is not on PyPI.
    """
    installed = _installed_venv(conf)
    if installed == _wanted(conf):
        return 'there'
    log = conf.log('venv')
    # Without a stamp there is nothing, or what an interrupted pip has left.
    clear = [] if installed else ['--clear']
    process.run(log, '/usr/bin/python3', '-m', 'venv', *clear,
                '--system-site-packages', conf.venv)
    words = [*REQUIREMENTS, '-e', str(conf.checkout)]
    tests = _test_requirements(conf)
    words += ['-r', str(tests)] if tests else ['pytest']
    process.run(log, conf.bin('pip'), 'install', *words,
                env=_git_environment(conf))
    (conf.state / 'venv').write_text(_wanted(conf))
    return ''


def _git_environment(conf: settings.Settings) -> dict[str, str]:
    """What pbr needs to find a version.

    Root reads a checkout that may belong to somebody else, which git
    refuses unless told; and a tarball has no history at all.
    """
    if not (conf.checkout / '.git').exists():
        return {'PBR_VERSION': '0.0.0'}
    return {'GIT_CONFIG_COUNT': '1', 'GIT_CONFIG_KEY_0': 'safe.directory',
            'GIT_CONFIG_VALUE_0': '*'}


def register(conf: settings.Settings) -> str:
    """Let Nova find the driver: a module beside its own."""
    process.run(conf.log('register'), conf.bin('nova-snapdriver'),
                'register')
    return ''

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

"""Install the distribution's packages and the virtual environment."""

import collections.abc
import contextlib
import hashlib
import pathlib
import platform
import re
import subprocess

from lab.openstack import process
from lab.openstack import settings

DISTRIBUTIONS = ('debian', 'ubuntu')
PROFILE = 'lab'
# A line of bindep.txt: a name, and profiles in brackets.
BINDEP = re.compile(r'(?P<name>[a-z0-9.+-]+)(?: \[(?P<profiles>.*)\])?$')

# One release of OpenStack, the one that the project is tested with.
REQUIREMENTS = (
    'nova>=34,<35', 'glance>=33,<34', 'keystone>=30,<31',
    'openstack-placement>=16,<17', 'neutron>=29,<30',
    'python-openstackclient', 'libvirt-python', 'uwsgi', 'pymysql',
    'python-memcached')
# A change of these, too, means that the environment is installed again.
SOURCES = ('requirements.txt', 'test-requirements.txt',
           'doc/requirements.txt', 'setup.cfg', 'pyproject.toml')

POLICY = pathlib.Path('/usr/sbin/policy-rc.d')


def distribution() -> str:
    """Return `debian` or `ubuntu`.

    :raises LabError: it is another one, with other packages
    """
    name = platform.freedesktop_os_release()['ID']
    if name not in DISTRIBUTIONS:
        raise settings.LabError(
            f'the lab runs on Debian and Ubuntu, not on {name!r}')
    return name


def wanted(text: str, name: str) -> list[str]:
    """Return the packages of bindep.txt for the lab on a distribution.

    Of bindep's syntax it knows profiles: one of the platforms and one of the
    others has to match, where there are any.
    """
    active = {PROFILE, 'platform:dpkg', f'platform:{name}'}
    found = []
    for line in text.splitlines():
        match = BINDEP.match(line)
        if match:
            profiles = set((match['profiles'] or '').split())
            platforms = {one for one in profiles if ':' in one}
            if all(not some or some & active
                   for some in (platforms, profiles - platforms)):
                found.append(match['name'])
    return found


def missing(conf: settings.Settings) -> list[str]:
    """Return the packages that are not installed yet."""
    text = (conf.checkout / 'bindep.txt').read_text()
    return [name for name in wanted(text, distribution())
            if not _installed(name)]


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
    names = missing(conf)
    if not names:
        return 'there'
    log = conf.log('apt')
    env = {'DEBIAN_FRONTEND': 'noninteractive'}
    with _no_autostart():
        process.run(log, 'apt-get', 'update', env=env)
        process.run(log, 'apt-get', 'install', '-y',
                    '--no-install-recommends', *names, env=env)
    return f'{len(names)} packages'


def releases() -> str:
    """Return a hash of OpenStack's releases, whatever the checkout."""
    return hashlib.sha256(repr(REQUIREMENTS).encode()).hexdigest()


def _stamp(conf: settings.Settings) -> pathlib.Path:
    return conf.state / 'venv'


def _fingerprint(conf: settings.Settings) -> str:
    known = hashlib.sha256(repr((str(conf.checkout), REQUIREMENTS)).encode())
    for name in SOURCES:
        known.update((conf.checkout / name).read_bytes())
    return known.hexdigest()


def install_venv(conf: settings.Settings) -> str:
    """Make the virtual environment, with this checkout in it, editable.

    From the system's Python and with the system's packages, as
    python3-libnbd is not on PyPI.
    """
    stamp = _stamp(conf)
    installed = stamp.read_text() if stamp.exists() else ''
    if installed == _fingerprint(conf):
        return 'there'
    log = conf.log('venv')
    # Without a stamp, what is there may be half of an interrupted pip.
    clear = [] if installed else ['--clear']
    process.run(log, '/usr/bin/python3', '-m', 'venv', *clear,
                '--system-site-packages', conf.venv)
    process.run(log, conf.bin('pip'), 'install', *REQUIREMENTS,
                '-e', conf.checkout,
                '-r', conf.checkout / 'test-requirements.txt',
                '-r', conf.checkout / 'doc/requirements.txt',
                env=_git_environment(conf))
    stamp.write_text(_fingerprint(conf))
    return ''


def _git_environment(conf: settings.Settings) -> dict[str, str]:
    """Return what lets pbr find a version.

    git refuses a checkout of another user's to root unless told, and a
    tarball has no history.
    """
    if not (conf.checkout / '.git').exists():
        return {'PBR_VERSION': '0.0.0'}
    return {'GIT_CONFIG_COUNT': '1', 'GIT_CONFIG_KEY_0': 'safe.directory',
            'GIT_CONFIG_VALUE_0': '*'}


def register(conf: settings.Settings) -> str:
    """Install the module by which Nova finds the driver."""
    process.run(conf.log('register'), conf.bin('nova-snapdriver'),
                'register')
    return ''

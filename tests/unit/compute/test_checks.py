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

"""What is wrong with a host is found, and nothing where nothing is."""

import os
import pathlib
import tempfile
from unittest import mock

import nova.conf
from nova.image import glance
from nova.storage import rbd_utils
from oslo_config import fixture as config_fixture
import pytest

from nova_snapdriver.compute import checks
from nova_snapdriver import conf
from nova_snapdriver import exception
from nova_snapdriver import host
from nova_snapdriver.recovery import images
from nova_snapdriver.stream import codec
from nova_snapdriver.transfer import stores

CAPABILITIES = """
<capabilities><host><secmodel><model>dac</model>
<baselabel type='qemu'>+%d:+%d</baselabel></secmodel></host></capabilities>"""
DOMAIN = ("<domainCapabilities><features><backup supported='%s'/></features>"
          "</domainCapabilities>")
SHOWN = 'LoadState=loaded\nTimeoutStopUSec=%s\nExecStop=%s\n'
# What systemd says of a unit of Kolla-Ansible's.
DOCKER = ('{ path=/usr/bin/docker ; argv[]=/usr/bin/docker stop nova_compute '
          '-t %d ; ignore_errors=no ; start_time=[n/a] }')


class Host:
    """A host on which all is well, and the ways to break it."""

    def __init__(self, path, conf, patched):
        self.path, self.conf, self._patched = path, conf, patched
        self.connection = mock.Mock(**{
            'getCapabilities.return_value': CAPABILITIES % (0, 0),
            'getDomainCapabilities.return_value': DOMAIN % 'yes',
            'getLibVersion.return_value': 9000000,
            'getVersion.return_value': 7002022})
        self.patch(host, 'missing_binding', lambda: [])
        self.patch(host, 'missing_programs', lambda: [])
        self.patch(images, 'missing_role', lambda: None)
        self.patch(images, 'unbegun', lambda uuid: [])
        self.patch(images, 'service_context', lambda: None)
        # The newest one is a copy that Ceph has made.
        self.image = {'id': 'i', 'os_hash_algo': 'sha512'}
        self.patch(glance.API, 'get_all', lambda *_, **__: [
            {'id': 'j', 'os_hash_algo': None}, self.image])
        self.patch(stores, 'writable', lambda context: ['fast', 'slow'])
        self.patch(checks, 'stop_seconds', lambda: None)
        for name in ('_APPARMOR', '_SELINUX', '_APPARMOR_RULES',
                     '_SELINUX_MODULES'):
            self.patch(checks, name, path / name)
        self.set('compute_driver', 'snapdriver.SnapDriver', None)
        for name in ('scratch_directory', 'journal_directory'):
            (path / name).mkdir()
            self.set(name, str(path / name))
        self.set('scratch_reserve', 1)

    def patch(self, where, name, value):
        self._patched.setattr(where, name, value)

    def set(self, name, value, group='snapdriver'):
        self.conf.config(group=group, **{name: value})

    def write(self, name, text):
        (self.path / name).write_text(text)

    def wrong(self):
        return {found.name: found.details for found in checks.run(
            checks.CHECKS, self.connection)
            if found.level is not checks.Level.SUCCESS}


@pytest.fixture
def found(monkeypatch):
    conf.register_opts(nova.conf.CONF)
    # A short path: there is to be a socket in it.
    with (config_fixture.Config(nova.conf.CONF) as made,
          tempfile.TemporaryDirectory(dir='/tmp') as path):
        os.chmod(path, 0o755)
        yield Host(pathlib.Path(path), made, monkeypatch)


def raises(error):
    return mock.Mock(side_effect=error)


def away(of):
    of.connection = mock.Mock(**{'getLibVersion.side_effect': OSError('away'),
                                 'getCapabilities.side_effect': OSError()})


def unreachable(of):
    of.connection.getCapabilities.return_value = CAPABILITIES % (64055, 108)
    (of.path / 'scratch_directory').chmod(0o700)


def long(of):
    path = of.path / ('d' * 100)
    path.mkdir()
    of.set('scratch_directory', str(path))


def kept_apart(of):
    (of.path / 'scratch_directory').chmod(0o777)


# What is broken, which check finds it, and a word of what it says.
BROKEN = {
    'libvirt is away': ('libvirt and QEMU', 'away', away),
    'libvirt is old': (
        'libvirt and QEMU', 'libvirt-daemon', lambda of: of.connection
        .getLibVersion.configure_mock(return_value=6000000)),
    'no backup API': (
        'libvirt and QEMU', 'backup API', lambda of: of.connection
        .getDomainCapabilities.configure_mock(return_value=DOMAIN % 'no')),
    'no binding': ("libnbd's Python binding", 'libnbd', lambda of: of.patch(
        host, 'missing_binding', lambda: ['libnbd'])),
    'no qemu-nbd': ('Programs', 'qemu-utils', lambda of: of.patch(
        host, 'missing_programs', lambda: ['package qemu-utils'])),
    'another driver': ('compute_driver', 'compute_driver =', lambda of: of.set(
        'compute_driver', 'libvirt.LibvirtDriver', None)),
    'scratch for everybody': ('Scratch directory', 'everybody', kept_apart),
    'a long path': ('Scratch directory', 'socket', long),
    'no way in for QEMU': (
        'QEMU in the scratch directory', 'user 64055', unreachable),
    'no space': ('Free space', 'file system', lambda of: of.set(
        'scratch_reserve', 1 << 40)),
    'no journal': ('Journal directory', 'journal_directory', lambda of: of.set(
        'journal_directory', '/dev/null/journal')),
    'AppArmor': ('AppArmor', 'rule', lambda of: of.write('_APPARMOR', 'Y')),
    'SELinux': ('SELinux', 'module', lambda of: of.write('_SELINUX', '1')),
    'no zstd': ('Compression', 'zstandard', lambda of: (
        of.set('compression', 'zstd'),
        of.patch(codec, 'missing', lambda name: 'zstandard'))),
    'no role': ('[service_user]', 'role', lambda of: of.patch(
        images, 'missing_role', lambda: 'the role admin')),
    'no Glance': ('Glance', 'refused', lambda of: of.patch(
        images, 'unbegun', raises(exception.UploadFailed(reason='refused')))),
    'no such store': ('Glance', 'fast, slow', lambda of: of.set(
        'store', 'fats')),
    'a hash that is not known here': (
        'Glance', 'hashing_algorithm', lambda of: of.image.update(
            os_hash_algo='blake3')),
    'no librbd': ('Ceph', 'rbd', lambda of: (
        of.set('images_type', 'rbd', 'libvirt'),
        of.patch(rbd_utils, 'rbd', None))),
    'snapshots that builds wait for': (
        'Limits', 'max_concurrent_builds', lambda of: of.set(
            'max_concurrent_snapshots', 10, None)),
    'no limit': ('Limits', 'max_concurrent_snapshots', lambda of: of.set(
        'max_concurrent_snapshots', 0, None)),
}


def test_nothing_is_wrong(found):
    assert found.wrong() == {}


@pytest.mark.parametrize('name', BROKEN)
def test_what_is_broken_is_found(name, found):
    check, words, break_it = BROKEN[name]
    break_it(found)
    assert words in found.wrong()[check]


def test_builds_without_a_limit_wait_for_nothing(found):
    found.set('max_concurrent_builds', 0, None)
    assert found.wrong() == {}


@pytest.mark.parametrize('wanted', ('', 'base', 'slow'))
def test_store_that_glance_has(wanted, found):
    found.set('store', wanted)
    assert found.wrong() == {}


def test_hash_that_nobody_compares(found):
    found.image['os_hash_algo'] = 'blake3'
    found.set('verify', False)
    assert found.wrong() == {}


def test_directories_that_are_not_there_are_left_to_be_made(found):
    for name in ('scratch_directory', 'journal_directory'):
        os.rmdir(found.path / name)
    assert found.wrong() == {}
    assert not (found.path / 'scratch_directory').exists()


@pytest.mark.parametrize('shown, stop, seconds', (
    ('1min 30s', '', 90), ('3min', '', 180), ('infinity', '', None),
    ('500ms', '', 0.5), ('1min 30s', DOCKER % 60, 60),
    ('infinity', DOCKER % 180, 180)))
def test_stop_timeout_of_systemd_and_of_kolla(shown, stop, seconds):
    done = mock.Mock(stdout=SHOWN % (shown, stop))
    with (mock.patch('shutil.which', return_value='/bin/systemctl'),
          mock.patch('subprocess.run', return_value=done)):
        assert checks.stop_seconds() == seconds


@pytest.mark.skipif('manager_shutdown_timeout' not in nova.conf.CONF,
                    reason='Nova before 34 waits for no task')
def test_systemd_that_kills_too_early(found):
    found.set('manager_shutdown_timeout', 160, None)
    found.patch(checks, 'stop_seconds', lambda: 90)
    assert 'TimeoutStopSec' in found.wrong()['Stop timeout']


def test_start_of_nova_compute_says_it(found, caplog):
    found.set('compute_driver', 'libvirt.LibvirtDriver', None)
    found.set('max_concurrent_snapshots', 0, None)
    checks.log(found.connection)
    assert [record.levelname for record in caplog.records] == [
        'ERROR', 'WARNING']
    assert 'compute_driver' in caplog.text

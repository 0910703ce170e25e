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

import contextlib
import os
import pathlib
import stat
import subprocess
import sys
import tempfile

import pytest

import nova_snapdriver
from nova_snapdriver.cmd import base
from nova_snapdriver.cmd import register

PROJECT = pathlib.Path(nova_snapdriver.__file__).parents[1]
NOBODY = 65534


@pytest.fixture
def module(tmp_path):
    return tmp_path / 'snapdriver.py'


@pytest.fixture
def public_dir():
    """A directory that every user can enter, as site-packages is."""
    with tempfile.TemporaryDirectory() as path:
        os.chmod(path, 0o755)
        yield pathlib.Path(path)


@contextlib.contextmanager
def unprivileged():
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def write_nova(root):
    """Write as much of a nova as its packages and drivers' directory."""
    virt = root / 'nova' / 'virt'
    libvirt = virt / 'libvirt'
    libvirt.mkdir(parents=True)
    (root / 'nova' / '__init__.py').touch()
    (virt / 'driver.py').write_text('raise Exception("nobody asked")\n')
    (libvirt / '__init__.py').touch()
    (libvirt / 'driver.py').write_text('class LibvirtDriver:\n    pass\n')
    return virt


def write_snapdriver(root, text):
    """Write a nova_snapdriver whose driver module has that text."""
    package = root / 'nova_snapdriver'
    package.mkdir(parents=True)
    (package / '__init__.py').touch()
    (package / 'driver.py').write_text(text)


def run(*arguments, path=()):
    """Run the command with only these directories of modules.

    -S leaves out site-packages, and a nova in it.
    """
    environ = {'PYTHONPATH': os.pathsep.join(map(str, path))}
    return subprocess.run(
        [sys.executable, '-S', '-m', 'nova_snapdriver.cmd.main',
         'register', *arguments],
        cwd=PROJECT, env=environ, capture_output=True, text=True, timeout=60)


def assert_fails(done, *words):
    assert (done.returncode, done.stdout) == (1, '')
    assert done.stderr.startswith('nova-snapdriver: ')
    assert done.stderr.count('\n') == 1
    for word in words:
        assert word in done.stderr


class TestRegister:

    def test_writes_one_line(self, module):
        assert register.register(module)
        assert module.read_text() == (
            'from nova_snapdriver.driver import SnapDriver\n')

    def test_twice_is_once(self, module):
        register.register(module)
        before = module.stat()
        assert not register.register(module)
        after = module.stat()
        assert (before.st_ino, before.st_mtime_ns) == (
            after.st_ino, after.st_mtime_ns)

    def test_leaves_nothing_else(self, module):
        register.register(module)
        assert os.listdir(module.parent) == ['snapdriver.py']

    @pytest.mark.parametrize('umask', [0, 0o077])
    def test_mode_whatever_the_umask(self, module, umask):
        before = os.umask(umask)
        try:
            register.register(module)
        finally:
            os.umask(before)
        assert stat.S_IMODE(module.stat().st_mode) == 0o644

    def test_failed_write_leaves_nothing(self, module, monkeypatch):
        def fail(*args):
            raise OSError(28, 'No space left on device')

        monkeypatch.setattr(os, 'fsync', fail)
        with pytest.raises(base.CommandError, match='No space left'):
            register.register(module)
        assert os.listdir(module.parent) == []

    def test_directory_not_writable(self, public_dir):
        os.chmod(public_dir, 0o555)
        with unprivileged(), pytest.raises(base.CommandError) as raised:
            register.register(public_dir / 'snapdriver.py')
        assert str(public_dir) in str(raised.value)
        assert f'run this as {public_dir.owner()}' in str(raised.value)

    def test_owner_without_a_name(self, public_dir):
        if os.geteuid() != 0:
            pytest.skip('only root gives files away')
        os.chown(public_dir, 54321, 54321)
        with unprivileged(), pytest.raises(
                base.CommandError, match='the user with the id 54321'):
            register.register(public_dir / 'snapdriver.py')


def make_file(path):
    path.write_text('from somebody.driver import SnapDriver\n')


def make_longer_file(path):
    path.write_text(register.MODULE_TEXT + 'print("mine")\n')


def make_binary_file(path):
    path.write_bytes(b'\xff\x00')


def make_empty_file(path):
    path.touch()


def make_link_to_nothing(path):
    path.symlink_to('nowhere.py')


def make_link(path):
    """One that leads to a text of ours, but elsewhere."""
    target = path.parent / 'target.py'
    target.write_text(register.MODULE_TEXT)
    path.symlink_to(target)


FOREIGN = [make_file, make_longer_file, make_binary_file, make_empty_file,
           make_link_to_nothing, make_link, pathlib.Path.mkdir]


@pytest.mark.parametrize('make', FOREIGN)
@pytest.mark.parametrize('action', [
    register.register, register.remove, register.check])
def test_somebody_elses_module_is_left_alone(action, make, module):
    make(module)
    before = os.lstat(module)
    with pytest.raises(base.CommandError, match='was not written by'):
        action(module)
    after = os.lstat(module)
    assert (before.st_ino, before.st_size, before.st_mtime_ns) == (
        after.st_ino, after.st_size, after.st_mtime_ns)


class TestRemove:

    def test_removes(self, module):
        register.register(module)
        assert register.remove(module)
        assert os.listdir(module.parent) == []

    def test_twice_is_once(self, module):
        register.register(module)
        register.remove(module)
        assert not register.remove(module)

    def test_removes_stale_byte_code(self, module):
        cache = module.parent / '__pycache__'
        cache.mkdir()
        for name in ('snapdriver.cpython-311.pyc',
                     'snapdriver.cpython-312.opt-1.pyc', 'driver.pyc'):
            (cache / name).touch()
        assert not register.remove(module)
        assert os.listdir(cache) == ['driver.pyc']

    def test_directory_not_writable(self, public_dir):
        module = public_dir / 'snapdriver.py'
        register.register(module)
        os.chmod(public_dir, 0o555)
        with unprivileged(), pytest.raises(
                base.CommandError, match='can not be written to'):
            register.remove(module)
        assert module.exists()


class TestCommand:

    def test_registers_and_says_what_comes_next(self, tmp_path):
        virt = write_nova(tmp_path)
        done = run(path=[tmp_path])
        assert (done.returncode, done.stderr) == (0, '')
        assert f'{virt}/snapdriver.py written' in done.stdout
        assert 'compute_driver = snapdriver.SnapDriver' in done.stdout
        assert 'restart nova-compute' in done.stdout
        assert (virt / 'snapdriver.py').read_text() == register.MODULE_TEXT

    def test_says_already_registered(self, tmp_path):
        write_nova(tmp_path)
        run(path=[tmp_path])
        done = run(path=[tmp_path])
        assert done.returncode == 0
        assert 'already registered' in done.stdout
        assert 'compute_driver = snapdriver.SnapDriver' in done.stdout

    def test_removes(self, tmp_path):
        virt = write_nova(tmp_path)
        run(path=[tmp_path])
        done = run('--remove', path=[tmp_path])
        assert (done.returncode, done.stderr) == (0, '')
        assert not (virt / 'snapdriver.py').exists()
        again = run('--remove', path=[tmp_path])
        assert (again.returncode, again.stderr) == (0, '')
        assert 'nothing to remove' in again.stdout

    def test_package_with_an_init(self, tmp_path):
        virt = write_nova(tmp_path)
        (virt / '__init__.py').touch()
        assert run(path=[tmp_path]).returncode == 0
        assert (virt / 'snapdriver.py').exists()

    def test_portion_of_a_namespace_without_drivers(self, tmp_path):
        """nova and nova.virt are found twice; drivers are in one place."""
        virt = write_nova(tmp_path / 'second')
        (tmp_path / 'second' / 'nova' / '__init__.py').unlink()
        other = tmp_path / 'first' / 'nova' / 'virt'
        other.mkdir(parents=True)
        done = run(path=[tmp_path / 'first', tmp_path / 'second'])
        assert done.returncode == 0
        assert (virt / 'snapdriver.py').exists()
        assert not (other / 'snapdriver.py').exists()

    def test_no_nova(self):
        assert_fails(run(), 'has no nova', 'python3-nova', sys.executable)

    def test_nova_without_drivers(self, tmp_path):
        (tmp_path / 'nova').mkdir()
        assert_fails(run(path=[tmp_path]), 'has no nova')

    def test_check_and_remove_exclude_each_other(self):
        done = run('--check', '--remove')
        assert done.returncode == 2
        assert 'not allowed with' in done.stderr


class TestCheck:

    @pytest.fixture
    def virt(self, tmp_path):
        return write_nova(tmp_path)

    def check(self, tmp_path, text):
        """Check with a nova_snapdriver.driver of that text."""
        write_snapdriver(tmp_path, text)
        # The command comes from the current directory, which is first for
        # "-m". The process that imports the driver does not look there.
        return run('--check', path=[tmp_path])

    def test_not_registered(self, tmp_path, virt):
        done = run('--check', path=[tmp_path])
        assert_fails(done, f'{virt}/snapdriver.py does not exist',
                     'run nova-snapdriver register')

    def test_import_error(self, tmp_path, virt):
        register.register(virt / 'snapdriver.py')
        assert_fails(self.check(tmp_path, 'import a_thing_that_is_missing\n'),
                     'can not be loaded', "'a_thing_that_is_missing'")

    def test_no_class(self, tmp_path, virt):
        register.register(virt / 'snapdriver.py')
        assert_fails(self.check(tmp_path, ''), 'can not be loaded',
                     "cannot import name 'SnapDriver'")

    def test_not_a_libvirt_driver(self, tmp_path, virt):
        register.register(virt / 'snapdriver.py')
        assert_fails(self.check(tmp_path, 'class SnapDriver:\n    pass\n'),
                     'SnapDriver is not a LibvirtDriver')

    def test_crash(self, tmp_path, virt):
        register.register(virt / 'snapdriver.py')
        text = 'import os\nos.abort()\n'
        assert_fails(self.check(tmp_path, text), 'SIGABRT')

    def test_good(self, tmp_path, virt):
        register.register(virt / 'snapdriver.py')
        done = self.check(tmp_path, (
            'from nova.virt.libvirt import driver\n'
            'class SnapDriver(driver.LibvirtDriver):\n    pass\n'))
        assert (done.returncode, done.stderr) == (0, '')
        assert 'is registered and can be loaded' in done.stdout

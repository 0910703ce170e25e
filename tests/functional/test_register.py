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

"""The registered module, as Nova itself loads it.

Each way to install Nova gets an environment of its own with a copy of Nova's
files: the environment that runs the tests stays as it is.
"""

import importlib.util
import os
import pathlib
import shutil
import subprocess
import sys
import venv

import pytest

import nova_snapdriver

PROJECT = pathlib.Path(nova_snapdriver.__file__).parents[1]

# Nothing of Nova but load_compute_driver decides what is loaded.
LOAD_SCRIPT = """\
import nova.conf
from nova.virt import driver
from nova.virt.libvirt import driver as libvirt_driver
nova.conf.CONF([], project='nova', default_config_files=[])
nova.conf.CONF.set_override('compute_driver', 'snapdriver.SnapDriver')
loaded = driver.load_compute_driver(virtapi=None)
assert isinstance(loaded, libvirt_driver.LibvirtDriver), loaded
assert driver.__file__.startswith(ROOT), driver.__file__
print(type(loaded).__module__, type(loaded).__name__)
"""

PYPROJECT = """\
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "nova"
version = "34.0.0"
[tool.setuptools.packages.find]
include = ["nova*"]
"""


class Environment:
    """A Python environment with all that this one has, but for nova."""

    def __init__(self, root):
        self._root = root
        venv.create(root / 'venv')
        self.python = str(root / 'venv' / 'bin' / 'python')
        [self.site_packages] = root.glob('venv/lib/python*/site-packages')
        libraries = root / 'libraries'
        link_libraries(libraries)
        (self.site_packages / 'libraries.pth').write_text(
            f'{libraries}\n{PROJECT}\n')

    def run(self, *arguments):
        return subprocess.run(
            [self.python, '-P', *arguments], cwd=self._root,
            capture_output=True, text=True, timeout=300)

    def register(self, *arguments):
        return self.run('-m', 'nova_snapdriver.cmd.main', 'register',
                        *arguments)

    def load(self, nova):
        """Have the nova of that directory load the driver; its output."""
        return self.run('-c', f'ROOT = {str(nova)!r}\n{LOAD_SCRIPT}')


def link_libraries(target):
    """Link every installed library except for nova into a new directory."""
    target.mkdir()
    for directory in map(pathlib.Path, sys.path):
        if directory.name not in ('site-packages', 'dist-packages'):
            continue
        for path in directory.iterdir():
            link = target / path.name
            wanted = not path.name.startswith(('nova-', '__editable__'))
            if wanted and path.name != 'nova' and not link.is_symlink():
                link.symlink_to(path)


def copy_nova(target):
    """Copy Nova's files, without its tests, to that directory.

    Byte code comes along: compiling Nova takes longer than the tests.
    """
    spec = importlib.util.find_spec('nova')
    shutil.copytree(pathlib.Path(spec.origin).parent, target,
                    ignore=shutil.ignore_patterns(
                        'tests', 'locale', 'snapdriver.*'))
    return target


def install_wheel(environment, root):
    """Lay nova out as a wheel is unpacked."""
    return copy_nova(environment.site_packages / 'nova')


def install_editable(environment, root, *options):
    """Install nova as DevStack does; import finds it by a finder's help."""
    source = root / 'source'
    source.mkdir()
    nova = copy_nova(source / 'nova')
    (source / 'pyproject.toml').write_text(PYPROJECT)
    done = environment.run(
        '-m', 'pip', 'install', '--quiet', '--no-deps', '--no-index',
        '--no-build-isolation', *options, '--editable', str(source))
    assert done.returncode == 0, done.stderr
    finders = list(environment.site_packages.glob('__editable___nova*.py'))
    assert bool(finders) == (not options)
    return nova


def install_editable_path(environment, root):
    """Install nova editable in the older way: a line in a .pth file."""
    return install_editable(environment, root,
                            '--config-settings', 'editable_mode=compat')


def install_editable_namespace(environment, root):
    """Install a nova whose nova.virt has no __init__.py."""
    nova = install_editable(environment, root)
    (nova / 'virt' / '__init__.py').unlink(missing_ok=True)
    return nova


@pytest.fixture(scope='module', params=[
    install_wheel, install_editable, install_editable_path,
    install_editable_namespace])
def installed(request, tmp_path_factory):
    """An environment, and the directory of the nova in it."""
    root = tmp_path_factory.mktemp('register')
    environment = Environment(root)
    return environment, request.param(environment, root)


def test_nova_loads_what_was_registered(installed):
    """From nothing to registered, and back, in the order of a life."""
    environment, nova = installed
    module = nova / 'virt' / 'snapdriver.py'

    check = environment.register('--check')
    assert (check.returncode, check.stdout) == (1, '')

    done = environment.register()
    assert (done.returncode, done.stderr) == (0, '')
    assert f'{module} written' in done.stdout
    check = environment.register('--check')
    assert (check.returncode, check.stderr) == (0, '')
    loaded = environment.load(nova)
    assert loaded.returncode == 0, loaded.stderr
    assert loaded.stdout == 'nova_snapdriver.driver SnapDriver\n'

    assert 'already registered' in environment.register().stdout

    assert environment.register('--remove').returncode == 0
    assert not module.exists()
    assert not list(nova.glob('virt/__pycache__/snapdriver.*'))


def test_somebody_elses_module_is_named(installed):
    environment, nova = installed
    module = nova / 'virt' / 'snapdriver.py'
    module.write_text('class SnapDriver:\n    pass\n')
    try:
        done = environment.register()
        assert done.returncode == 1
        assert f'{module} was not written by nova-snapdriver' in done.stderr
        assert module.read_text().startswith('class')
    finally:
        os.unlink(module)

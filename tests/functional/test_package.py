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

"""What an operator installs: the wheel."""

import configparser
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parents[2]


def run(*argv, **options):
    # Of what is not committed under a tag, pbr has to be told the version.
    done = subprocess.run(
        argv, env={**os.environ, 'PBR_VERSION': '1.2.3'}, text=True,
        capture_output=True, timeout=300, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope='module')
def sdist(tmp_path_factory):
    """Make the source distribution, as a release does.

    Of what git has, and the manual. From a copy: a build leaves files where
    it runs.
    """
    source = tmp_path_factory.mktemp('source') / 'checkout'
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(
        '.git', '.tox', '.venv', 'build', 'dist', '*.egg-info',
        '__pycache__'))
    run('git', 'init', '--quiet', cwd=source)
    run('git', 'add', '--all', cwd=source)
    run('git', '-c', 'user.name=t', '-c', 'user.email=t@example.org',
        'commit', '--quiet', '--message', 'all', cwd=source)
    for builder in ('html', 'man'):
        run(sys.executable, '-m', 'sphinx', '-W', '-q', '-b', builder,
            'doc/source', f'doc/build/{builder}', cwd=source)
    run(sys.executable, 'setup.py', '--quiet', 'sdist', cwd=source)
    [path] = (source / 'dist').glob('*.tar.gz')
    return path


@pytest.fixture(scope='module')
def wheel_file(sdist, tmp_path_factory):
    target = tmp_path_factory.mktemp('wheel')
    run(sys.executable, '-m', 'pip', 'wheel', '--quiet', '--no-deps',
        '--no-index', '--no-build-isolation', '--wheel-dir', target, sdist)
    [path] = target.glob('*.whl')
    return path


@pytest.fixture(scope='module')
def wheel(wheel_file):
    with zipfile.ZipFile(wheel_file) as archive:
        yield archive


def test_source_distribution_is_whole(sdist):
    """Whoever packs it for a distribution builds and tests it from this."""
    with tarfile.open(sdist) as archive:
        found = {name.partition('/')[2] for name in archive.getnames()}
    assert {'bindep.txt', 'devstack/plugin.sh', 'doc/build/html/index.html',
            'doc/build/man/nova-snapdriver.8', 'doc/source/install.rst',
            'etc/nova_snapdriver/config-generator.conf', 'lab/run',
            'tests/unit/test_plan.py', 'tox.ini'} <= found


def test_installed_where_nothing_else_of_it_is(wheel_file, tmp_path):
    """In an environment that has its dependencies from this one."""
    run(sys.executable, '-m', 'venv', tmp_path)
    python = tmp_path / 'bin/python'
    [site] = tmp_path.glob('lib/*/site-packages')
    (site / 'dependencies.pth').write_text('\n'.join(
        path for path in sys.path if path.endswith('-packages')))
    run(python, '-m', 'pip', 'install', '--quiet', '--no-deps', '--no-index',
        wheel_file)
    code = ('from nova_snapdriver import driver;'
            'print(driver.__file__, driver.SnapDriver.__name__)')
    file, name = run(python, '-I', '-c', code).split()
    assert file.startswith(str(site))
    assert name == 'SnapDriver'
    told = run(tmp_path / 'bin/nova-snapdriver', '--help')
    assert 'register' in told


def read(wheel, name):
    return wheel.read(
        f'nova_snapdriver-1.2.3.dist-info/{name}').decode()


def test_no_other_package(wheel):
    """Above all no nova: pip would unpack it into Nova's directory."""
    top = {name.split('/')[0] for name in wheel.namelist()}
    assert top == {'nova_snapdriver', 'nova_snapdriver-1.2.3.data',
                   'nova_snapdriver-1.2.3.dist-info'}


def test_every_module(wheel):
    expected = {str(path.relative_to(ROOT))
                for path in (ROOT / 'nova_snapdriver').rglob('*.py')}
    assert expected == {name for name in wheel.namelist()
                        if name.endswith('.py')}


def test_entry_points(wheel):
    points = configparser.ConfigParser()
    points.read_string(read(wheel, 'entry_points.txt'))
    assert points['console_scripts']['nova-snapdriver'] == (
        'nova_snapdriver.cmd.main:main')
    assert points['oslo.config.opts']['nova_snapdriver'] == (
        'nova_snapdriver.conf:list_opts')


def test_metadata(wheel):
    metadata = read(wheel, 'METADATA')
    assert 'Name: nova-snapdriver\n' in metadata
    assert 'Requires-Python: >=3.11\n' in metadata

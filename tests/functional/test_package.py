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
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    """Build the wheel from a copy: a build leaves files where it runs."""
    source = tmp_path_factory.mktemp('source') / 'checkout'
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(
        '.*', 'build', 'dist', '*.egg-info', '__pycache__'))
    target = tmp_path_factory.mktemp('wheel')
    # Without git, pbr has to be told the version.
    done = subprocess.run(
        [sys.executable, '-m', 'pip', 'wheel', '--quiet', '--no-deps',
         '--no-index', '--no-build-isolation', '--wheel-dir', target, source],
        env={**os.environ, 'PBR_VERSION': '1.2.3'},
        capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    [path] = target.glob('*.whl')
    with zipfile.ZipFile(path) as archive:
        yield archive


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

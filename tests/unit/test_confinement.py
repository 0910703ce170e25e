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

"""The rules for AppArmor and SELinux, by the programs that compile them."""

import pathlib
import re
import shutil
import subprocess

import pytest

from nova_snapdriver.capture import workspace

INSTALLED = pathlib.Path(__file__).parents[2] / 'etc/nova_snapdriver'
APPARMOR = INSTALLED / 'apparmor-libvirt-qemu'
SELINUX = INSTALLED / 'nova_snapdriver.te'


def run(*argv, **more):
    done = subprocess.run(argv, text=True, capture_output=True, **more)
    assert done.returncode == 0, done.stderr
    return done.stdout


def needs(program):
    return pytest.mark.skipif(shutil.which(program) is None,
                              reason=f'{program} is not installed')


@needs('apparmor_parser')
def test_the_rule_for_apparmor_is_one():
    profile = f'profile qemu {{\n#include "{APPARMOR}"\n}}\n'
    # Compiled, and not loaded: that would need the kernel's AppArmor.
    run('apparmor_parser', '--skip-kernel-load', '--skip-cache',
        input=profile)


def test_the_rule_for_apparmor_is_for_the_socket(tmp_path):
    """By its pattern, and the path that a snapshot gets."""
    [rule] = [line for line in APPARMOR.read_text().splitlines()
              if line and not line.startswith('#')]
    pattern, access = rule.rstrip(',').split()
    place = workspace.Workspace(tmp_path / 'snapdriver-01234567')
    path = place.socket.replace(str(tmp_path),
                                '/var/lib/nova/instances/snapshots')
    assert re.fullmatch(pattern.replace('*', '[^/]*'), path)
    assert access == 'rw'


@needs('checkmodule')
def test_the_module_for_selinux_compiles(tmp_path):
    # Its name has to be that of the file.
    module = tmp_path / 'nova_snapdriver.mod'
    run('checkmodule', '-M', '-m', '-o', str(module), str(SELINUX))
    assert module.exists()

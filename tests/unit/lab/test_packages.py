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

"""What the lab installs, by bindep.txt."""

import pathlib

import pytest

from lab.openstack import packages

TEXT = '''
# A comment.
always
qemu-utils [platform:dpkg]
nbdkit [platform:dpkg test lab]
g++-12 [test]
curl [lab]
kernel-debian [platform:debian lab]
kernel-ubuntu [platform:ubuntu lab]
something [platform:rpm]
'''


@pytest.mark.parametrize('name', ('debian', 'ubuntu'))
def test_profiles(name):
    assert packages.wanted(TEXT, name) == [
        'always', 'qemu-utils', 'nbdkit', 'curl', f'kernel-{name}']


@pytest.mark.parametrize('name, kernel', [
    ('debian', 'linux-image-cloud-amd64'), ('ubuntu', 'linux-image-virtual')])
def test_the_lab_has_a_libvirt_a_cloud_and_a_guest(name, kernel):
    root = pathlib.Path(packages.__file__).parents[2]
    found = packages.wanted((root / 'bindep.txt').read_text(), name)
    assert len(set(found)) == len(found)
    assert {'libvirt-daemon', 'mariadb-server', 'python3-libnbd', 'nbdkit',
            kernel} <= set(found)

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

"""nova-snapdriver check: nothing on the lab as it is, and all that is broken.

What is broken is real: directories, options, services that are not there.
"""

import os
import pathlib
import shutil
import tempfile
import uuid

import pytest

from lab.openstack import config
from tests.e2e import checks

POOR = 'snapdriver-e2e-poor'


@pytest.fixture(scope='module', autouse=True)
def compute(lab):
    lab.compute(config.Compute())


@pytest.fixture
def place():
    """A directory with a short path, which QEMU's user may enter."""
    with tempfile.TemporaryDirectory(prefix='snapdriver-', dir='/tmp') as made:
        path = pathlib.Path(made)
        path.chmod(0o755)
        yield path


@pytest.fixture
def wrong(lab, place):
    """Runs the command; gives what it says is wrong, by check."""
    def check(options='', **environment):
        broken = place / 'broken.conf'
        broken.write_text(options)
        return checks.wrong(lab, broken, **environment)

    return check


def test_nothing_is_wrong_with_the_lab(wrong):
    assert wrong() == {}


BROKEN = """
[DEFAULT]
compute_driver = libvirt.LibvirtDriver
max_concurrent_snapshots = 10
[libvirt]
connection_uri = qemu+unix:///system?socket=%(place)s/no-libvirtd
[snapdriver]
scratch_directory = %(place)s
scratch_reserve = 1000000000
journal_directory = /dev/null/journal
[service_user]
password = wrong
"""


def test_what_is_broken_is_found(wrong, place):
    (place / 'nbd.py').write_text('raise ImportError("of another Python")')
    # os_brick calls it when it is imported.
    (place / 'grep').symlink_to(shutil.which('grep'))
    scratch = place / 'open'
    scratch.mkdir()
    scratch.chmod(0o777)
    path = os.pathsep.join([str(place), os.environ.get('PYTHONPATH', '')])
    assert_said(wrong(BROKEN % {'place': scratch}, PATH=str(place),
                      PYTHONPATH=path), {
        'compute_driver': 'compute_driver = snapdriver.SnapDriver',
        'libvirt and QEMU': 'no-libvirtd',
        "libnbd's Python binding": 'of another Python',
        'Programs': 'qemu-utils',
        'Scratch directory': 'everybody',
        'QEMU in the scratch directory': 'no-libvirtd',
        'Free space': 'scratch_reserve',
        'Journal directory': 'journal_directory',
        '[service_user]': '401',
        'Glance': '401',
        'Limits': 'max_concurrent_builds'})


WRONG = """
[DEFAULT]
max_concurrent_snapshots = 0
[libvirt]
images_type = rbd
images_rbd_pool = vms
images_rbd_ceph_conf = /nonexistent/ceph.conf
[snapdriver]
scratch_directory = %(scratch)s
live_method = nonsense
store = no-such-store
"""


def test_more_that_is_broken_is_found(wrong, place):
    scratch = place / ('long' * 25)
    scratch.mkdir(mode=0o700)
    assert_said(wrong(WRONG % {'scratch': scratch}), {
        'Options': 'live_method',
        'Scratch directory': 'socket',
        'QEMU in the scratch directory': f'chmod o+x {scratch}',
        'Glance': 'no-such-store',
        'Ceph': 'client.admin in the pool vms',
        'Limits': 'any number'})


@pytest.fixture
def poor(lab):
    """The name of a user with the role that Kolla-Ansible gives."""
    identity = lab.cloud.sdk.identity
    project = identity.find_project('service')
    user = identity.create_user(
        name=f'{POOR}-{uuid.uuid4()}', domain_id='default',
        password=lab.settings.password)
    identity.assign_project_role_to_user(
        project, user, identity.find_role('service'))
    yield user.name
    identity.delete_user(user)


def test_a_user_without_the_role(wrong, poor):
    """Which role Glance's own policies ask for depends on its release."""
    found = wrong(f'[service_user]\nusername = {poor}\n')
    assert 'admin' in found.pop('[service_user]')
    assert set(found) <= {'Glance'}


def assert_said(found, expected):
    assert set(found) == set(expected)
    for check, words in expected.items():
        assert words in found[check]

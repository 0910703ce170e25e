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

"""nova-compute as a user who is not root, with a privsep that is real."""

import dataclasses
import pathlib
import subprocess

import pytest

from lab.openstack import config
from lab.openstack import process
from lab.openstack import services
from lab.paths import cases
from lab.paths import paths
from tests.e2e import checks

NOVA = config.Compute(user='nova')
CASES = cases.unprivileged_cases()
# Root again, with a server and files that the other has made.
BACK = dataclasses.replace(CASES[0], user=config.ROOT)
UPLOAD_TIMEOUT = 60


@pytest.fixture(scope='module')
def rows(lab):
    """A snapshot in each way, with all that has to hold checked."""
    made = paths.Paths(lab)
    made.run([*CASES, BACK])
    return {row.name: row for row in made.rows}


@pytest.mark.parametrize('name', [case.name for case in [*CASES, BACK]])
def test_snapshot(rows, name):
    assert rows[name].problems == []


@pytest.fixture
def as_nova(lab):
    """nova-compute as that user, for the test."""
    lab.compute(NOVA)
    yield services.NovaCompute(lab.settings, NOVA)
    lab.compute(config.Compute())


def test_it_is_not_root(as_nova):
    status = pathlib.Path(
        f'/proc/{as_nova.record().pid}/status').read_text()
    words = dict(line.split(':\t', 1) for line in status.splitlines())
    assert '0' not in words['Uid'].split()
    assert int(words['CapEff'], 16) == 0


def test_sudo_is_for_the_helper_alone(as_nova):
    done = subprocess.run(['setpriv', '--reuid=nova', '--regid=nova',
                           '--init-groups', 'sudo', '-n', 'id'],
                          capture_output=True, text=True)
    assert done.returncode != 0
    assert 'uid=0' not in done.stdout


def test_killed_while_it_uploads(lab, server, as_nova):
    image_id = lab.cloud.action(server.id, 'createImage',
                                name='snapdriver-e2e-nova')['image_id']
    process.wait_for(
        'the upload', lambda: lab.cloud.image(image_id)['status'] == 'saving',
        UPLOAD_TIMEOUT)
    as_nova.kill()
    # Its files are QEMU's, and it is not root that removes them.
    assert list(lab.settings.snapshots.iterdir())
    assert server.domain.has_backup_job()

    lab.compute(NOVA)
    process.wait_for(
        'the task state', lambda: lab.cloud.server(server.id)[
            'OS-EXT-STS:task_state'] is None, UPLOAD_TIMEOUT)
    checks.assert_nothing_left(lab)
    checks.assert_gone(lab, image_id)
    assert not server.domain.has_backup_job()
    assert server.domain.persistent()
    server.domain.wait_agent()

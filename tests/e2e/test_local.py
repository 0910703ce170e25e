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


"""nova-snapdriver snapshot --image, with the credentials of the environment.

Of a server of the lab, by its domain: Nova does not know of it.
"""

import json
import os
import signal
import subprocess

import pytest

from lab.openstack import process
from nova_snapdriver import faultpoint
from tests.e2e import checks

NAME = f'{checks.NAME}-local'
SECONDS = 300


@pytest.fixture(scope='module')
def server(small):
    return small(name='local')


@pytest.fixture
def command(lab, tmp_path):
    """Runs nova-snapdriver, with its journal in the test's directory."""
    points = tmp_path / 'points'
    points.mkdir()

    def run(*words, **environment):
        return subprocess.run(
            [lab.settings.bin('python'), '-P', '-m',
             'nova_snapdriver.cmd.main', *words, '--journal-directory',
             tmp_path / 'journal'],
            capture_output=True, text=True, timeout=SECONDS,
            env={**os.environ, faultpoint.VARIABLE: str(points),
                 'PYTHONPATH': str(lab.settings.checkout), **environment})

    return run


@pytest.fixture
def arm(tmp_path):
    path = tmp_path / 'points' / faultpoint.ARMED
    return lambda point, action: path.write_text(json.dumps({point: action}))


def images(lab):
    return [image['id'] for image in lab.cloud.images(NAME)]


def test_image(lab, server, command, tmp_path):
    done = command('snapshot', server.domain.name, '--image', NAME, '--json',
                   **lab.cloud.environment)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told['method'], told['consistency']) == ('live', 'filesystem')
    assert images(lab) == [told['image']]
    image, _ = checks.assert_whole(lab, told['image'], tmp_path)
    assert (image['name'], image['status']) == (NAME, 'active')
    assert (image['os_hash_algo'], image['os_hash_value']) == (
        told['algorithm'], told['digest'])
    assert image['size'] == told['size']
    assert lab.settings.password not in done.stdout + done.stderr
    checks.assert_goes_on(lab, server)
    lab.cloud.delete_image(told['image'])


def test_without_credentials_the_guest_is_not_touched(lab, server, command):
    done = command('snapshot', server.domain.name, '--image', NAME)
    assert (done.returncode, done.stdout) == (1, '')
    assert done.stderr.startswith('nova-snapdriver: the cloud: ')
    assert 'Traceback' not in done.stderr
    assert images(lab) == []
    checks.assert_goes_on(lab, server)


def test_killed_and_recovered(lab, server, command, arm, tmp_path):
    """With the credentials of its owner, the image is deleted, too."""
    arm('upload.first', 'kill')
    done = command('snapshot', server.domain.name, '--image', NAME,
                   **lab.cloud.environment)
    assert done.returncode == -signal.SIGKILL
    assert len(images(lab)) == 1
    arm('nothing', 'kill')
    nova_conf = tmp_path / 'nova.conf'
    nova_conf.write_text('[libvirt]\nvirt_type = qemu\n[snapdriver]\n'
                         f'journal_directory = {tmp_path}/nova\n')

    def recovered():
        # Glance may still be busy with the upload that has ended.
        done = command('recover', '--config-file', nova_conf,
                       **lab.cloud.environment)
        return done.returncode == 0

    process.wait_for('the recovery', recovered, SECONDS, poll=5)
    assert images(lab) == []
    assert not list((tmp_path / 'journal').iterdir())
    checks.assert_goes_on(lab, server)

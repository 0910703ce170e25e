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

"""`openstack server image create`, through everything that is real."""

import datetime
import hashlib
import re
import subprocess

import pytest

from lab.bench import demo
from lab.observe import measure
from lab.openstack import config
from lab.openstack import guest
from lab.openstack import process
from lab.openstack import proxy
from lab.openstack import services
from tests.e2e import checks

# What QEMU may hold back for the guest while the disk is read, at most.
STAGING_LIMIT = 64 * guest.MI
UPLOAD_TIMEOUT = 60
# Of an image of more than a GiB.
HELD_BYTES = 256 * guest.MI
# Promised are 5; a machine that is busy takes its time to clean up.
CANCEL_TIMEOUT = 20


@pytest.fixture
def download(lab, tmp_path):
    """Downloads an image to a file."""
    def fetch(image_id):
        path = tmp_path / image_id
        lab.cloud.download(image_id, path)
        return path

    return fetch


@pytest.fixture
def paused(lab, server):
    """The server, paused for the test."""
    lab.cloud.action(server.id, 'pause')
    lab.cloud.wait_server(server.id, 'PAUSED')
    yield server
    lab.cloud.action(server.id, 'unpause')
    lab.cloud.wait_server(server.id)


def uploading(lab, server, name):
    """Begin a snapshot, up to where its image is on its way."""
    image_id = lab.cloud.action(server.id, 'createImage',
                                name=f'snapdriver-e2e-{name}')['image_id']
    process.wait_for(
        'the upload', lambda: lab.cloud.image(image_id)['status'] == 'saving',
        UPLOAD_TIMEOUT)
    return image_id


@pytest.mark.quick
@pytest.mark.parametrize('mode', config.MODES)
def test_a_live_snapshot(lab, server, snapshot, download, mode):
    lab.compute(config.Compute(mode=mode))
    said = measure.Said(lab.settings.log('nova-compute'))
    run = snapshot(mode)

    assert run.status == 'active'
    assert (run.path, run.consistency) == ('live', 'filesystem')
    assert run.persistent, 'the domain was transient for a while'
    assert run.staging_peak_bytes < STAGING_LIMIT
    assert_described(lab, server, run)
    assert_sound(lab.cloud.image(run.image_id), download(run.image_id))
    assert_nothing_left(lab, server)
    assert_writing(server)
    assert_counted(said, run)


def assert_counted(said, run):
    """The log has its figures once, in a line of their own."""
    line, = [line for line in said.lines() if f'image={run.image_id}' in line]
    assert ' INFO nova_snapdriver.metrics ' in line
    found = dict(re.findall(r'(\w+)=(\S+)', line))
    assert found['result'] == 'success'
    assert (found['path'], found['consistency']) == ('live', 'filesystem')
    assert int(found['bytes_sent']) == run.size
    assert 0 < float(found['freeze_seconds']) <= float(
        found['capture_seconds'])


def test_the_image_of_a_paused_server_is_its_disk(lab, paused, download):
    created = lab.cloud.action(paused.id, 'createImage',
                               name='snapdriver-e2e-paused')
    image = lab.cloud.wait_image(created['image_id'])
    lab.cloud.wait_server(paused.id, 'PAUSED')

    assert image['snapdriver_path'] == 'live'
    assert image['snapdriver_consistency'] == 'crash'
    assert paused.domain.state() == 'paused'
    assert_nothing_left(lab, paused)
    path = download(image['id'])
    assert_sound(image, path)
    # -U: QEMU has the disk open, and does not write as it is paused.
    qemu_img('compare', '-U', '-f', 'qcow2', '-F', 'qcow2', path,
             paused.disk)
    lab.cloud.delete_image(image['id'])


def test_a_second_server_from_the_image_is_whole(lab, server, snapshot):
    lab.compute(config.Compute())
    run = snapshot('source')
    second = demo.boot(lab, 'snapdriver-e2e-second', run.image_id)
    said = demo.restored(second)
    try:
        assert demo.whole(said), said
        # A file system that was frozen has nothing to replay.
        assert 'replayed=no' in said
        assert_writing(second)
    finally:
        lab.cloud.delete_server(second.id)


def test_nova_compute_killed_while_it_uploads(lab, server, snapshot):
    lab.compute(config.Compute())
    image_id = uploading(lab, server, 'killed')
    services.NovaCompute(lab.settings, config.Compute()).kill()
    assert server.domain.persistent()
    assert server.domain.has_backup_job()
    assert_writing(server)

    # Started again, it undoes what the killed one has left.
    lab.compute(config.Compute())
    process.wait_for(
        'the task state', lambda: lab.cloud.server(server.id)[
            'OS-EXT-STS:task_state'] is None, UPLOAD_TIMEOUT)
    assert_nothing_left(lab, server)
    checks.assert_gone(lab, image_id)
    assert_writing(server)
    assert snapshot('after-the-kill').status == 'active'


@pytest.fixture
def held(lab):
    """Holds the next upload in its middle, until it is let go."""
    with proxy.Proxy(lab.settings) as between:
        def hold(mode='threading'):
            lab.compute(config.Compute(mode=mode, options=(
                ('glance', 'api_servers', between.url),)))
            between.arm(proxy.Fault('hold', at=HELD_BYTES))
            return between

        yield hold
        between.clear()
        lab.compute(config.Compute())


def progress(lab, server):
    """What a tenant sees."""
    shown, _ = lab.cloud.start_openstack(
        'server', 'show', '-f', 'value', '-c', 'progress',
        server.id).communicate(timeout=UPLOAD_TIMEOUT)
    return int(shown)


def begin(lab, server, name):
    """Begin a snapshot, until the server shows its progress."""
    image_id = uploading(lab, server, name)
    process.wait_for('progress', lambda: lab.cloud.server(
        server.id)['progress'], UPLOAD_TIMEOUT)
    return image_id


@pytest.mark.parametrize('mode', config.MODES)
def test_the_server_shows_the_progress(lab, server, held, mode):
    between = held(mode)
    image_id = begin(lab, server, f'progress-{mode}')
    assert 0 < progress(lab, server) < 100
    between.clear()
    lab.cloud.wait_image(image_id)
    lab.cloud.wait_server(server.id)
    assert progress(lab, server) == 0
    assert_nothing_left(lab, server)
    lab.cloud.delete_image(image_id)


def test_a_killed_nova_compute_leaves_no_progress(lab, server, held):
    held()
    begin(lab, server, 'progress-killed')
    services.NovaCompute(lab.settings, config.Compute()).kill()
    assert lab.cloud.server(server.id)['progress']
    lab.compute(config.Compute())
    process.wait_for(
        'no progress', lambda: not lab.cloud.server(server.id)['progress'],
        UPLOAD_TIMEOUT)


def test_image_deleted_while_it_is_uploaded(lab, server, snapshot):
    image_id = uploading(lab, server, 'unwanted')
    lab.cloud.delete_image(image_id)
    process.wait_for(
        'the task state', lambda: lab.cloud.server(server.id)[
            'OS-EXT-STS:task_state'] is None, CANCEL_TIMEOUT)
    assert lab.cloud.server(server.id)['status'] == 'ACTIVE'
    assert_nothing_left(lab, server)
    assert_writing(server)
    assert snapshot('after-the-unwanted').status == 'active'


def test_server_deleted_while_it_is_uploaded(lab, server):
    doomed = demo.boot(lab, 'snapdriver-e2e-doomed', lab.guest_image())
    image_id = uploading(lab, doomed, 'doomed')
    lab.cloud.delete_server(doomed.id)
    checks.assert_gone(lab, image_id)
    assert_nothing_left(lab, server)


def assert_described(lab, server, run):
    """The image says what it is, and keeps what Nova's own driver sets."""
    image = lab.cloud.image(run.image_id)
    captured = datetime.datetime.fromisoformat(
        image['snapdriver_captured_at'])
    made = datetime.datetime.fromisoformat(image['created_at'])
    assert captured.utcoffset() == datetime.timedelta(0)
    # Glance's time has no fraction.
    assert -1 < (captured - made).total_seconds() < 60
    assert image['instance_uuid'] == server.id
    assert image['image_type'] == 'snapshot'
    assert image['disk_format'] == 'qcow2'
    assert image['virtual_size'] == guest.DISK_BYTES
    assert image['min_disk'] == guest.DISK_BYTES >> 30
    assert image['hw_qemu_guest_agent'] == 'yes'


def assert_sound(image, path):
    """The file is what Glance says, and a clean qcow2 on its own."""
    with open(path, 'rb') as file:
        digest = hashlib.file_digest(file, image['os_hash_algo'])
    assert path.stat().st_size == image['size']
    assert digest.hexdigest() == image['os_hash_value']
    qemu_img('check', '-f', 'qcow2', path)


def assert_nothing_left(lab, server):
    """No file, no job, no task; the definition is still there."""
    checks.assert_nothing_left(lab)
    process.wait_for('the end of its task', lambda: lab.cloud.task_state(
        server.id) is None, checks.CLEAN_TIMEOUT)
    assert not server.domain.has_backup_job()
    assert not server.domain.has_job()
    assert server.domain.persistent()


def assert_writing(server):
    """The guest writes on, and its agent answers: it is thawed."""
    console = measure.Console(server.console, from_end=True)
    console.wait(measure.BEAT, measure.BEAT_TIMEOUT)
    server.domain.wait_agent()


def qemu_img(*words):
    done = subprocess.run(['qemu-img', *map(str, words)], text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == 0, done.stdout

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

"""What tests of server actions do again and again."""

import itertools
import json
import os
import re
import subprocess

from lab.observe import inspect
from lab.observe import measure
from lab.openstack import config
from lab.openstack import process

NAME = 'snapdriver-e2e-small'
BOOT_TIMEOUT = 120
# What fails to be cleaned up is tried again; and another server's snapshot
# may still be under way.
CLEAN_TIMEOUT = 60
CHECK_TIMEOUT = 120
_numbers = itertools.count()


def create_image(lab, server, name=None):
    reply = lab.cloud.action(server.id, 'createImage',
                             name=name or f'{NAME}-{next(_numbers)}')
    return reply['image_id']


def assert_whole(lab, image_id, tmp_path, replay=False):
    """The image holds a guest's disk of one instant.

    :returns: the image, and the number of the round that it holds
    """
    image = lab.cloud.wait_image(image_id)
    path = tmp_path / image_id
    lab.cloud.download(image_id, path)
    found, wrong = inspect.image(path, image['disk_format'],
                                 tmp_path / 'inspect', replay)
    path.unlink()
    assert not wrong
    return image, found


def assert_goes_on(lab, server):
    """It runs and is thawed, it has no job, and nothing is left behind."""
    lab.cloud.wait_server(server.id)
    assert server.domain.persistent()
    assert not server.domain.has_backup_job()
    assert_nothing_left(lab)
    console = measure.Console(server.console, from_end=True)
    console.wait(measure.BEAT, measure.BEAT_TIMEOUT)


def assert_nothing_left(lab):
    """No snapshot leaves a file."""
    process.wait_for(
        'the end of all files', lambda: not list(
            lab.settings.snapshots.iterdir()), CLEAN_TIMEOUT)


def assert_gone(lab, image_id):
    """Glance has no such image, in the end."""
    process.wait_for(
        'the end of the image', lambda: image_id not in [
            image['id'] for image in lab.cloud.images()], CLEAN_TIMEOUT)


def stop(lab, server):
    lab.cloud.action(server.id, 'os-stop')
    lab.cloud.wait_server(server.id, 'SHUTOFF')


def start(lab, server):
    console = console_from_now(server)
    lab.cloud.action(server.id, 'os-start')
    console.wait(measure.BEAT, BOOT_TIMEOUT)
    server.domain.wait_agent()
    assert_goes_on(lab, server)


def assert_copy(lab, image_id, server, tmp_path):
    """The image is the disk, byte for byte; the server does not run."""
    path = tmp_path / image_id
    lab.cloud.download(image_id, path)
    qemu_img('check', '-f', 'qcow2', path)
    qemu_img('compare', '-f', 'qcow2', '-F', 'qcow2', path, server.disk)
    path.unlink()


def console_from_now(server):
    console = measure.Console(server.console, from_end=True)
    console.lines()
    return console


def restored(server, round_number, console=None):
    """What the guest says once it has found a disk of this round.

    :param console: to read on from; without, from its beginning
    """
    console = console or measure.Console(server.console)
    said = console.wait(
        re.compile(rf'restored (a=\d+ b={round_number} .*)$'), BOOT_TIMEOUT)
    return said[1]


def qemu_img(*words):
    process.output('qemu-img', *map(str, words), timeout=300)


def wrong(lab, *files, **environment):
    """What "nova-snapdriver check" says is wrong, by the names of checks.

    :param files: of configuration, read after that of nova-compute
    """
    words = [word for file in (config.compute_file(lab.settings), *files)
             for word in ('--config-file', str(file))]
    done = subprocess.run(
        [lab.settings.bin('nova-snapdriver'), 'check', '--json', *words],
        capture_output=True, text=True, timeout=CHECK_TIMEOUT,
        env=os.environ | environment)
    assert done.stdout, done.stderr
    found = json.loads(done.stdout)['checks']
    assert done.returncode == max(one['result'] for one in found)
    return {one['check']: one['details'] for one in found if one['result']}

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

"""One real OpenStack for all these tests: the lab."""

import os

import pytest

from lab.bench import demo
from lab.observe import measure
from lab.openstack import cloud
from lab.openstack import config
from lab.openstack import settings
from lab.openstack import stack
from tests.e2e import checks

NAME = 'snapdriver-e2e'


@pytest.fixture(scope='session')
def lab():
    """The lab, brought up where it is not, with our driver in the end."""
    if os.geteuid() != 0:
        pytest.skip('the lab needs root')
    found = stack.Stack(settings.load())
    found.up()
    yield found
    found.compute(config.Compute())


@pytest.fixture(scope='session')
def server(lab):
    """A server that writes all the time."""
    remove(lab)
    made = demo.boot(lab, NAME, lab.guest_image())
    made.wait_up()
    yield made
    remove(lab)


@pytest.fixture(scope='module')
def small(lab):
    """Makes small servers that write; all are gone in the end."""
    made = []

    def boot(image_id=None, name='small', flavor=stack.SMALL_FLAVOR,
             options=(), **properties):
        """Boot one of an image, or of the guest's with some properties.

        :param options: of the request for the server
        """
        words = '-'.join(f'{key}={value}'
                         for key, value in properties.items())
        image = image_id or lab.small_image(
            f'{checks.NAME}-{words}-{lab.guest.version()}', **properties)
        server_id = lab.cloud.new_server(f'{checks.NAME}-{name}', image,
                                         flavor, **dict(options))
        made.append(server_id)
        lab.cloud.wait_server(server_id)
        server = measure.server(lab.cloud, server_id)
        server.wait_up(checks.BOOT_TIMEOUT)
        return server

    lab.compute(config.Compute())
    yield boot
    for server_id in made:
        lab.cloud.delete_server(server_id)
    for image in cloud.named(lab.cloud.images(), checks.NAME):
        lab.cloud.delete_image(image['id'])


@pytest.fixture
def snapshot(lab, server):
    """Takes snapshots; their images are gone after the test."""
    taken = []

    def take(name):
        taken.append(measure.snapshot(lab.cloud, server, f'{NAME}-{name}'))
        return taken[-1]

    yield take
    for run in taken:
        lab.cloud.delete_image(run.image_id)


def remove(lab):
    """Remove what these tests made, or left behind the last time."""
    for one in lab.cloud.servers():
        if one['name'].startswith(NAME):
            lab.cloud.delete_server(one['id'])
    for image in lab.cloud.images():
        if (image['name'] or '').startswith(NAME):
            lab.cloud.delete_image(image['id'])

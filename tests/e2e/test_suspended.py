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

"""A server that runs and is suspended for its snapshot."""

import json

import pytest

from lab.openstack import config
from lab.openstack import domain
from tests.e2e import checks

COLD = config.Compute(options=(('snapdriver', 'live_method', 'cold'),))
FROZEN = '{"execute": "guest-fsfreeze-status"}'


@pytest.fixture(scope='module')
def server(lab, small):
    booted = small()
    lab.compute(COLD)
    yield booted
    lab.compute(config.Compute())


def test_it_goes_on_from_its_memory(lab, server, tmp_path):
    image, round_number = checks.assert_whole(
        lab, checks.create_image(lab, server), tmp_path)
    assert image['snapdriver_path'] == 'cold'
    # Its agent froze it before, and has thawed it since.
    assert image['snapdriver_consistency'] == 'filesystem'
    said = json.loads(domain.virsh(
        'qemu-agent-command', server.domain.name, '--timeout', '10', FROZEN))
    assert said['return'] == 'thawed'
    checks.assert_goes_on(lab, server)
    # It did not boot again: it would have told what it found on its disk.
    assert 'restored' not in server.console.read_text(errors='replace')
    assert round_number > 0


def test_a_paused_one_is_paused_again(lab, server, tmp_path):
    lab.cloud.action(server.id, 'pause')
    lab.cloud.wait_server(server.id, 'PAUSED')
    image_id = checks.create_image(lab, server)
    image = lab.cloud.wait_image(image_id)
    lab.cloud.wait_server(server.id, 'PAUSED')
    assert image['snapdriver_path'] == 'cold'
    assert image['snapdriver_consistency'] == 'crash'
    assert server.domain.state() == 'paused'
    checks.assert_nothing_left(lab)
    checks.assert_whole(lab, image_id, tmp_path, replay=True)
    lab.cloud.action(server.id, 'unpause')
    checks.assert_goes_on(lab, server)

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

"""Snapshots of guests whose agent fails, takes too long, or is not there.

What it says in a freeze is the real agent's: the program that it runs before
it freezes is another one in each test.
"""

import base64

import pytest

from lab.observe import measure
from lab.openstack import cloud
from lab.openstack import config
from lab.openstack import guest
from lab.openstack import process
from tests.e2e import checks

# An emulated guest may need a second or two to run its program.
AGENT_TIMEOUT = 4
HOOK = '/run/hook'
# Longer than the driver waits and tries to thaw: the agent freezes when the
# snapshot has long gone on without.
SLOW_SECONDS = 24
HOOKS = {
    'error': 'test "$1" = thaw',
    'slow': f'test "$1" = thaw || sleep {SLOW_SECONDS}',
}
# What the warning says.
REASONS = {
    'error': 'hook has failed',
    'slow': 'agent is not available|agent timed out|not responding',
    'none': 'no agent runs in the guest',
}
DELETED_TIMEOUT = 90
LOG_TIMEOUT = 10


@pytest.fixture(scope='module', params=('no', 'yes'))
def required(request):
    """os_require_quiesce."""
    return request.param


@pytest.fixture(scope='module')
def server(lab, small, required):
    lab.compute(config.Compute(options=(
        ('snapdriver', 'agent_timeout', str(AGENT_TIMEOUT)),)))
    made = small(name=f'agent-{required}', os_require_quiesce=required,
                 os_command_line=f'{guest.COMMAND_LINE} lab.hook')
    made.domain.wait_agent()
    return made


def set_hook(server, script):
    agent = server.domain.agent
    handle = agent('guest-file-open', path=HOOK, mode='w')
    text = base64.b64encode(f'#!/bin/sh\n{script}\n'.encode()).decode()
    agent('guest-file-write', handle=handle, **{'buf-b64': text})
    agent('guest-file-close', handle=handle)


def kill_agent(server):
    """Let it end, once it has answered."""
    server.domain.agent('guest-exec', path='/bin/sh',
                        arg=['-c', 'sleep 1; killall qemu-ga'])
    process.wait_for("the agent's end",
                     lambda: not server.domain.agent_answers(),
                     checks.BOOT_TIMEOUT)


# Without an agent at last: nobody starts it again.
@pytest.mark.parametrize('agent', ('well', 'error', 'slow', 'none'))
def test_a_snapshot(lab, server, required, agent, tmp_path):
    if agent == 'none':
        kill_agent(server)
    else:
        set_hook(server, HOOKS.get(agent, ''))
    log = measure.Said(lab.settings.log('nova-compute'))
    image_id = checks.create_image(lab, server)

    if agent == 'well':
        assert_consistency(lab, image_id, tmp_path, 'filesystem')
    elif required == 'no':
        assert_consistency(lab, image_id, tmp_path, 'crash')
        assert log.matches('crash-consistent: .*' + REASONS[agent])
    else:
        process.wait_for('the failure', lambda: gone(lab, image_id),
                         DELETED_TIMEOUT)
        # Nova logs why only after it has deleted the image.
        process.wait_for(
            'the reason in the log', lambda: log.matches(
                'quiesce.*' + REASONS[agent]), LOG_TIMEOUT)
    checks.assert_goes_on(lab, server)
    if agent == 'slow':
        assert_thawed_in_the_end(server)


def assert_consistency(lab, image_id, tmp_path, consistency):
    image, _ = checks.assert_whole(lab, image_id, tmp_path,
                                   replay=consistency == 'crash')
    assert image['snapdriver_path'] == 'live'
    assert image['snapdriver_consistency'] == consistency


def gone(lab, image_id):
    try:
        lab.cloud.image(image_id)
    except cloud.ApiError as error:
        assert error.status == 404
        return True
    return False


def assert_thawed_in_the_end(server):
    """The freeze that was asked for comes late, and does not stay."""
    process.wait_for('the agent', server.domain.agent_answers,
                     2 * SLOW_SECONDS)
    process.wait_for(
        'the thaw', lambda: server.domain.agent(
            'guest-fsfreeze-status') == 'thawed', SLOW_SECONDS)
    console = checks.console_from_now(server)
    console.wait(measure.BEAT, measure.BEAT_TIMEOUT)

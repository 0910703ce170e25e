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

"""In processes of their own: a heartbeat ends the one it is in."""

import json
import os
import subprocess
import sys
import time

import pytest

# Begins a heartbeat, and waits.
PROGRAM = """
import json, os, threading, time
from nova_snapdriver.stream import heartbeat
heartbeat._BEAT_SECONDS = 0.1
def say(event, **values):
    os.write(2, json.dumps({'event': event, **values}).encode() + b'\\n')
heartbeat.begin(say, 1, 2)
def die():
    raise MemoryError('no room')
%s
time.sleep(60)
"""
SECONDS = 20
PIPE_BYTES = 65536


@pytest.fixture
def start():
    """Starts a process, and ends it after the test."""
    started = []

    def begin(code=''):
        started.append(subprocess.Popen(
            [sys.executable, '-c', PROGRAM % code], stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(os.environ, PYTHONPATH=os.getcwd())))
        return started[-1]

    yield begin
    for one in started:
        one.kill()
        one.communicate()


def event(process):
    return json.loads(process.stderr.readline())


def test_it_says_that_it_lives(start):
    running = start()
    assert [event(running) for _ in range(3)] == [{'event': 'alive'}] * 3


def test_beats_that_nobody_reads_do_not_wait(start):
    running = start('os.write(2, bytes(%d))' % PIPE_BYTES)
    time.sleep(2)                       # until it is stuck in that
    running.stdout.close()
    assert running.wait(SECONDS) == 1


def test_it_ends_when_nobody_reads_the_image(start):
    running = start()
    event(running)
    running.stdout.close()
    assert running.wait(SECONDS) == 1
    said = running.stderr.read().splitlines()
    assert 'nobody' in json.loads(said[-1])['message']


def test_thread_that_dies_ends_it(start):
    running = start('threading.Thread(target=die).start()')
    assert running.wait(SECONDS) == 1
    said = json.loads(running.stderr.read().splitlines()[-1])
    assert said['event'] == 'error' and 'no room' in said['message']

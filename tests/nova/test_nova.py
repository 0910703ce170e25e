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

"""Nova's own unit tests on our driver: one test here for each of Nova's."""

import functools
import json
import pathlib
import subprocess
import sys

import pytest

from tests.nova import exceptions

ROOT = pathlib.Path(__file__).parents[2]
LEAST = 90


def worker(*words):
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-m', 'tests.nova.worker', *words],
        cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


@functools.cache
def outcomes():
    return {name: (outcome, details) for name, outcome, details in worker()}


def pytest_generate_tests(metafunc):
    if 'name' in metafunc.fixturenames:
        metafunc.parametrize('name', [name for name, *_ in worker('--list')])


def test_of_nova(name):
    outcome, details = outcomes()[name]
    reason = exceptions.EXCEPTIONS.get(name)
    if reason is None:
        if outcome == 'skipped':
            pytest.skip('by Nova: ' + details)
        assert outcome == 'passed', details
        return
    assert outcome == 'failed', 'listed as an exception, and passes'
    pytest.xfail(reason)


def test_list_is_whole_and_exceptions_exist():
    assert len(outcomes()) >= LEAST
    assert set(exceptions.EXCEPTIONS) <= set(outcomes())

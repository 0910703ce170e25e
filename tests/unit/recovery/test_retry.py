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

"""What is tried again until it is done."""

import threading
from unittest import mock

import pytest

from nova_snapdriver.recovery import retry

NOTHING, SOMETHING, GUEST = retry.Left


@pytest.fixture(autouse=True)
def no_pauses():
    with mock.patch('time.sleep') as sleep:
        yield sleep


class Attempts:
    """Gives answers, and an event with the last one."""

    def __init__(self, *answers):
        self._answers = list(answers)
        self.done = threading.Event()

    def __call__(self):
        answer = self._answers.pop(0)
        if not self._answers:
            self.done.set()
        if isinstance(answer, Exception):
            raise answer
        return answer


def test_until_nothing_is_left(no_pauses):
    attempts = Attempts(SOMETHING, OSError('away'), SOMETHING,
                        NOTHING)
    retry.Retry(attempts).begin()
    assert attempts.done.wait(10)
    pauses = [call.args[0] for call in no_pauses.mock_calls]
    assert pauses[:4] == [5, 10, 20, 40]


def test_again_once_it_had_ended():
    attempts = Attempts(NOTHING, NOTHING)
    trying = retry.Retry(attempts)
    with mock.patch.object(threading, 'Thread') as thread:
        trying.begin()
    thread.call_args.kwargs['target']()
    assert not attempts.done.is_set()
    trying.begin()
    assert attempts.done.wait(10)


def test_what_comes_meanwhile_is_seen_to_by_the_same_thread():
    inside, go_on = threading.Event(), threading.Event()
    runs = []

    def attempt():
        runs.append(threading.current_thread())
        inside.set()
        go_on.wait(10)
        return NOTHING

    trying = retry.Retry(attempt)
    trying.begin()
    assert inside.wait(10)
    trying.begin()
    go_on.set()
    runs[0].join(10)
    assert len(runs) == 2 and len(set(runs)) == 1


@pytest.mark.parametrize('answer, pauses', (
    (SOMETHING, [5, 10, 20, 40, 80, 160, 300, 300]),
    (GUEST, [5, 10, 20, 30, 30, 30, 30, 30])))
def test_a_guest_does_not_wait_for_long(answer, pauses, no_pauses):
    attempts = Attempts(*[answer] * 8, NOTHING)
    retry.Retry(attempts).begin()
    assert attempts.done.wait(10)
    found = [call.args[0] for call in no_pauses.mock_calls]
    assert found[:8] == pauses


def test_a_guest_is_looked_at_soon_after_a_long_pause(no_pauses):
    attempts = Attempts(*[SOMETHING] * 7, GUEST, NOTHING)
    retry.Retry(attempts).begin()
    assert attempts.done.wait(10)
    found = [call.args[0] for call in no_pauses.mock_calls]
    assert found[7:9] == [300, 30]

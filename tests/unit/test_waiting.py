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

from unittest import mock

import pytest

from nova_snapdriver import waiting


@pytest.fixture
def clock():
    """A clock that stands still but for the sleeps, and these."""
    now, slept = [0.0], []

    def sleep(seconds):
        slept.append(seconds)
        now[0] += seconds

    with (mock.patch('time.sleep', sleep),
          mock.patch('oslo_utils.timeutils.now', lambda: now[0])):
        yield slept


def test_what_is_ready_is_not_waited_for(clock):
    assert waiting.wait_until(lambda: True, 10, 1) is True
    assert clock == []


def test_asks_until_it_is_ready(clock):
    answers = iter((None, '', 'yes'))
    assert waiting.wait_until(lambda: next(answers), 10, 3) is True
    assert clock == [3, 3]


def test_gives_up_when_the_time_is_over(clock):
    ready = mock.Mock(return_value=False)
    assert waiting.wait_until(ready, 2, 1) is False
    assert clock == [1, 1, 1]
    assert ready.call_count == 4


def test_asks_once_more_after_the_last_pause(clock):
    answers = iter((False, True))
    assert waiting.wait_until(lambda: next(answers), 1, 60) is True


def retried(*outcomes, attempts=3):
    return waiting.retry(
        mock.Mock(side_effect=outcomes), 'Counting', None,
        errors=(ArithmeticError,), final=(ZeroDivisionError,),
        attempts=attempts, pause=2)


def test_what_works_is_called_once(clock):
    assert retried('done', AssertionError) == 'done'
    assert clock == []


def test_what_fails_is_tried_again(clock, caplog):
    assert retried(ArithmeticError, OverflowError('big'), 'done') == 'done'
    assert clock == [2, 2]
    assert 'Counting failed, attempt 2 of 3: big' in caplog.text


def test_the_last_error_is_raised(clock):
    with pytest.raises(OverflowError):
        retried(ArithmeticError, OverflowError, AssertionError, attempts=2)
    assert clock == [2]


@pytest.mark.parametrize('error', (ZeroDivisionError, KeyError))
def test_what_another_attempt_does_not_help_is_raised_at_once(error, clock):
    with pytest.raises(error):
        retried(error, AssertionError)
    assert clock == []


def test_an_exception_ends_the_wait(clock):
    with pytest.raises(ZeroDivisionError):
        waiting.wait_until(lambda: 1 / 0, 10, 1)
    assert clock == []

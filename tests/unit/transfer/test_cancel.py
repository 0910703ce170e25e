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

import socket
import threading
import time
import types
from unittest import mock

from keystoneauth1 import exceptions as ksa_exc
import pytest

from nova_snapdriver.transfer import cancel
from nova_snapdriver.transfer import connections
from nova_snapdriver import waiting


@pytest.fixture(autouse=True)
def quick():
    with mock.patch.object(cancel, '_POLL_SECONDS', 0.01):
        yield


class Unwanted(Exception):
    """A cause."""


def every(*causes):
    """Causes that are asked at every look."""
    return [cancel.Cause(ask, 0) for ask in causes]


def wait_for(ended):
    assert ended.wait(30)
    raise OSError('it was ended')


def test_cause_ends_and_replaces_the_error():
    ended = threading.Event()
    with pytest.raises(Unwanted) as caught:
        with cancel.Watch(every(Unwanted)) as watch, watch.ending(ended.set):
            wait_for(ended)
    assert isinstance(caught.value.__cause__, OSError)


def test_what_begins_late_is_ended_too():
    ended = threading.Event()
    with pytest.raises(Unwanted):
        with cancel.Watch(every(Unwanted)) as watch:
            time.sleep(0.1)
            with watch.ending(ended.set):
                wait_for(ended)


def test_look_that_fails_is_no_cause_and_hides_none():
    causes = every(mock.Mock(side_effect=ZeroDivisionError), lambda: None)
    with cancel.Watch(causes) as watch, watch.ending(pytest.fail):
        time.sleep(0.1)
    with pytest.raises(Unwanted):
        with cancel.Watch([*causes, *every(Unwanted)]):
            raise OSError


def test_error_without_a_cause_stays():
    with pytest.raises(OSError, match='my own'):
        with cancel.Watch(every(lambda: None)):
            raise OSError('my own')


def test_cause_that_comes_before_the_first_look():
    with mock.patch.object(cancel, '_POLL_SECONDS', 60):
        with pytest.raises(Unwanted):
            with cancel.Watch(every(Unwanted)):
                raise OSError


def test_cause_that_shows_later_than_what_it_breaks():
    """An export is gone with QEMU, before libvirt knows that QEMU is."""
    answers = iter([None] * 3)
    with mock.patch.object(cancel, '_POLL_SECONDS', 60):
        with pytest.raises(Unwanted):
            with cancel.Watch(every(lambda: next(answers, Unwanted())),
                              lambda: True):
                raise OSError


def test_error_stays_where_a_cause_has_to_be_and_none_shows():
    with mock.patch.object(cancel, '_LAG_SECONDS', 0.5):
        with pytest.raises(OSError, match='my own'):
            with cancel.Watch(every(lambda: None), lambda: True):
                raise OSError('my own')


def test_what_is_done_is_done():
    ended = threading.Event()
    with cancel.Watch(every(Unwanted)) as watch, watch.ending(ended.set):
        assert ended.wait(30)


@pytest.fixture
def mute():
    """The address of a server that accepts connections, and says nothing."""
    with socket.create_server(('127.0.0.1', 0)) as listening:
        yield '127.0.0.1:%d' % listening.getsockname()[1]


def assert_cut(url):
    """A request that nobody answers fails at once when it is cut."""
    like = types.SimpleNamespace(verify=False, cert=None, timeout=None)
    ours = connections.Connections()
    session = ours.session(like)
    cutter = threading.Timer(0.5, ours.cut)
    cutter.start()
    began = time.monotonic()
    with pytest.raises((ksa_exc.ConnectFailure, ksa_exc.SSLError)):
        session.get(url, authenticated=False, timeout=60)
    assert time.monotonic() - began < 30
    cutter.join()
    assert ours.session(like) is session


def asked(seconds, while_watching):
    """How often a cause with this interval is asked."""
    ask = mock.Mock(return_value=None)
    with cancel.Watch([cancel.Cause(ask, seconds)]):
        time.sleep(while_watching)
    return ask.call_count


def test_cause_is_not_asked_more_often_than_its_interval_says():
    assert asked(60, 0.2) <= 1


def test_causes_are_asked_each_in_its_own_time():
    often, seldom = mock.Mock(return_value=None), mock.Mock(return_value=None)
    with cancel.Watch([cancel.Cause(seldom, 60), cancel.Cause(often, 0)]):
        assert waiting.wait_until(lambda: often.call_count > 3, 30, 0.05)
    assert seldom.call_count <= 1


def test_first_question_comes_at_a_random_time_within_the_interval():
    """Snapshots that begin at once do not ask at once."""
    with mock.patch('random.uniform', return_value=7) as uniform:
        due = cancel._Due(cancel.Cause(lambda: None, 15))
        assert not due.take()
    uniform.assert_called_once_with(0, 15)


def test_cause_is_due_once_in_its_interval():
    now = [0.0]
    with (mock.patch('oslo_utils.timeutils.now', lambda: now[0]),
          mock.patch('random.uniform', return_value=3)):
        due = cancel._Due(cancel.Cause(lambda: None, 10))
        times = []
        for now[0] in range(30):
            if due.take():
                times.append(now[0])
    assert times == [4, 15, 26]


def test_all_causes_are_asked_when_the_work_fails_whatever_their_time():
    with pytest.raises(Unwanted):
        with cancel.Watch([cancel.Cause(lambda: None, 60),
                           cancel.Cause(Unwanted, 60)]):
            raise OSError


@pytest.mark.parametrize('scheme', ('http', 'https'))
def test_cut_wakes_who_waits_for_an_answer(scheme, mute, monkeypatch):
    """Also in the middle of TLS's handshake."""
    monkeypatch.setenv('no_proxy', '*')
    assert_cut('%s://%s' % (scheme, mute))


@pytest.mark.parametrize('scheme', ('http', 'https'))
def test_cut_wakes_who_waits_for_a_proxy(scheme, mute, monkeypatch):
    """Which forwards requests, or opens a tunnel."""
    monkeypatch.setenv(scheme + '_proxy', 'http://' + mute)
    monkeypatch.delenv('no_proxy', raising=False)
    monkeypatch.delenv('NO_PROXY', raising=False)
    assert_cut('%s://glance.invalid' % scheme)

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

"""Snapshots of this process that wait for their turn, and are ended."""

import contextlib
import threading
import time
import types
from unittest import mock

from nova.compute import utils as compute_utils
from nova import exception as nova_exception
import pytest

from nova_snapdriver.compute import running
from nova_snapdriver import exception

SERVER = types.SimpleNamespace(uuid='server')
SECONDS = 20


class Stop(Exception):
    """What a snapshot is ended with."""


@pytest.fixture(autouse=True)
def quick():
    with (mock.patch.object(running, '_POLL_SECONDS', 0.01),
          mock.patch.object(running, '_TURN_SECONDS', 0.01)):
        yield


@contextlib.contextmanager
def begun(snapshots, uuid='server', turn=False):
    """A snapshot in a thread of its own, that goes on until it is ended.

    Gives the snapshot, and a list of what it ended with.
    """
    known, ended = [], []
    ready = threading.Event()

    def take():
        try:
            with snapshots.one(uuid) as snapshot:
                known.append(snapshot)
                with (snapshots.turn(snapshot) if turn
                      else contextlib.nullcontext()):
                    ready.set()
                    while True:
                        snapshot.check()
                        time.sleep(0.01)
        except Exception as ex:
            ended.append(ex)

    thread = threading.Thread(target=take, daemon=True)
    thread.start()
    assert ready.wait(SECONDS)
    try:
        yield known[0], ended
    finally:
        known[0].end(Stop())
        thread.join(SECONDS)


def test_snapshot_that_is_ended_raises_the_first_cause():
    snapshot = running.Snapshot('server')
    snapshot.check()
    assert snapshot.cause is None
    snapshot.end(Stop('first'))
    snapshot.end(Stop('second'))
    assert str(snapshot.cause) == 'first'
    with pytest.raises(Stop, match='first'):
        snapshot.check()


# Turns


def test_turns_are_limited():
    snapshots = running.Running(2)
    with (snapshots.turn(running.Snapshot('a')),
          snapshots.turn(running.Snapshot('b'))):
        third = running.Snapshot('c')
        threading.Timer(0.1, third.end, [Stop()]).start()
        with pytest.raises(Stop), snapshots.turn(third):
            pytest.fail('it had a turn')
    with snapshots.turn(running.Snapshot('d')):
        pass


def test_no_limit_is_no_wait():
    snapshots = running.Running(0)
    with contextlib.ExitStack() as turns:
        for _ in range(100):
            turns.enter_context(snapshots.turn(running.Snapshot('a')))


def test_turn_comes_when_another_ends():
    snapshots, took = running.Running(1), threading.Event()

    def take():
        with snapshots.turn(running.Snapshot('b')):
            took.set()

    with snapshots.turn(running.Snapshot('a')):
        threading.Thread(target=take, daemon=True).start()
        assert not took.wait(0.1)
    assert took.wait(SECONDS)


@pytest.mark.parametrize('error', (Stop, KeyboardInterrupt))
def test_turn_is_given_back_whatever_happens(error):
    snapshots = running.Running(1)
    with pytest.raises(error), snapshots.turn(running.Snapshot('a')):
        raise error
    with snapshots.turn(running.Snapshot('b')):
        pass


def test_ended_before_its_turn_gives_the_turn_back():
    snapshots, ended = running.Running(1), running.Snapshot('a')
    ended.end(Stop())
    with pytest.raises(Stop), snapshots.turn(ended):
        pytest.fail('it had a turn')
    with snapshots.turn(running.Snapshot('b')):
        pass


def test_semaphore_of_nova_without_a_limit_is_not_waited_for():
    unlimited = compute_utils.UnlimitedSemaphore()
    with running.taken(unlimited, running.Snapshot('a')):
        pass


def test_semaphore_of_nova_is_taken_and_given_back():
    semaphore = threading.Semaphore(1)
    with running.taken(semaphore, running.Snapshot('a')):
        assert not semaphore.acquire(blocking=False)
    assert semaphore.acquire(blocking=False)


# Endings


def test_deletion_ends_the_snapshots_of_its_instance_and_waits():
    snapshots = running.Running(0)
    with (begun(snapshots) as (_, ended),
          begun(snapshots, 'other') as (other, _)):
        snapshots.end_of(SERVER)
        assert isinstance(ended[0], nova_exception.InstanceNotFound)
        assert other.cause is None


def test_deletion_without_a_snapshot_does_not_wait():
    running.Running(0).end_of(SERVER)


def test_deletion_does_not_wait_for_ever(caplog):
    snapshots = running.Running(0)
    with (mock.patch.object(running, '_RELEASE_SECONDS', 0.05),
          snapshots.one('server') as stuck):
        snapshots.end_of(SERVER)
        assert isinstance(stuck.cause, nova_exception.InstanceNotFound)
    assert 'instances server have not ended' in caplog.text


def test_deletion_ends_one_that_waits_for_its_turn():
    snapshots = running.Running(1)
    with begun(snapshots, 'other', turn=True):
        waiter = running.Snapshot('server')
        snapshots._snapshots.append(waiter)
        with mock.patch.object(running, '_RELEASE_SECONDS', 0.05):
            snapshots.end_of(SERVER)
        with (pytest.raises(nova_exception.InstanceNotFound),
              snapshots.turn(waiter)):
            pytest.fail('it had a turn')


def test_stop_ends_all_and_waits_for_them():
    snapshots = running.Running(0)
    with (begun(snapshots, 'a') as (_, first),
          begun(snapshots, 'b') as (_, second)):
        snapshots.end_all(SECONDS)
        for ended in (first, second):
            assert isinstance(ended[0], exception.Cancelled)
            assert 'nova-compute was stopped' in str(ended[0])


def test_stop_does_not_wait_for_ever():
    snapshots = running.Running(0)
    with snapshots.one('server') as stuck:
        snapshots.end_all(0.05)
        assert stuck.cause is not None


# Which end in time


@pytest.fixture
def clock():
    now = [0.0]
    with mock.patch('oslo_utils.timeutils.now', lambda: now[0]):
        yield now


def test_seconds_left_by_the_speed_so_far(clock):
    snapshot = running.Snapshot('server')
    assert snapshot.seconds_left() == float('inf')
    snapshot.note_sent(0, 100)
    assert snapshot.seconds_left() == float('inf')
    clock[0] = 10
    snapshot.note_sent(20, 100)
    assert snapshot.seconds_left() == 40
    clock[0] = 50
    snapshot.note_sent(100, 100)
    assert snapshot.seconds_left() == 0


def test_late_ones_are_ended_and_the_others_go_on(clock):
    snapshots = running.Running(0)
    with (snapshots.one('a') as early, snapshots.one('b') as late,
          snapshots.one('c') as unbegun):
        early.note_sent(0, 100)
        late.note_sent(0, 100)
        clock[0] = 10
        early.note_sent(90, 100)
        late.note_sent(10, 100)
        snapshots.end_late(30)
        assert early.cause is None
        for one in (late, unbegun):
            assert isinstance(one.cause, exception.Cancelled)


def test_one_that_is_only_verified_goes_on_to_the_end(clock):
    snapshots = running.Running(0)
    with snapshots.one('a') as sent:
        sent.note_sent(0, 100)
        clock[0] = 10
        sent.note_sent(100, 100)
        snapshots.end_late(0)
        assert sent.cause is None

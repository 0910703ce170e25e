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

"""The guest of an abandoned snapshot, and what the database says of it.

With a real journal, and a database, a libvirt and a Glance that are fakes.
"""

import os
from unittest import mock

import pytest

from nova_snapdriver import journal
from nova_snapdriver.recovery import undo
from tests.unit import cloud as fake_cloud
from tests.unit import journal_entry
from tests.unit.recovery import abandoned

FROZEN, SUSPENDED, DETACHED, PAUSED = journal.Mark
IMAGE = journal_entry.ENTRY.image


# A guest that was paused for want of room


def test_guest_that_our_scratch_has_stopped_goes_on(abandon, recover, domain,
                                                    place):
    domain.backup, domain.paused = place.socket, 'io'
    abandon()
    assert recover().done == ('ended its backup job', 'resumed the guest')
    assert domain.paused is None


def test_guest_that_another_error_has_stopped_stays(abandon, recover, domain):
    domain.paused = 'io'
    abandon()
    recover()
    assert domain.paused == 'io'


def test_guest_goes_on_after_a_crash_between_job_and_resume(abandon, recover,
                                                            domain):
    domain.paused = 'io'
    abandon(PAUSED)
    assert recover().done == ('resumed the guest',)
    assert domain.paused is None


def test_guest_that_was_paused_in_an_earlier_run_stays(abandon, recover,
                                                       domain):
    abandon(PAUSED)
    domain.boot()
    domain.paused = 'io'
    recover()
    assert domain.paused == 'io'


@pytest.mark.parametrize('state', ('paused', 'stopped', 'error', 'rescued'))
def test_guest_that_is_not_to_run_is_not_resumed(state, abandon, recover,
                                                 domain, database):
    domain.paused, database.vm_state = 'io', state
    abandon(PAUSED)
    outcome = recover()
    assert outcome.done == ('left the guest as it is: the server is %s' %
                            state,)
    assert domain.paused == 'io'


def test_guest_is_not_resumed_without_the_database(abandon, recover, domain,
                                                   database):
    domain.paused, database.away = 'io', True
    abandon(PAUSED)
    outcome = recover()
    # The image waits, too.
    assert len(outcome.failed) == 2 and outcome.guest_waits
    assert domain.paused == 'io'


# A guest that was suspended


def test_suspended_guest_is_started(abandon, recover, domain):
    abandoned.save(domain)
    abandon(SUSPENDED)
    assert recover().done == ('started the guest from its saved memory',)
    assert domain.number is not None


def test_frozen_guest_is_started_and_then_thawed(abandon, recover, domain):
    abandoned.freeze(domain)
    abandon(FROZEN, SUSPENDED)
    abandoned.save(domain)
    assert recover().done == ('started the guest from its saved memory',
                              'thawed the guest')
    assert domain.frozen is None


def test_save_that_still_runs_is_aborted(abandon, recover, domain):
    domain.saving = True
    abandon(SUSPENDED)
    recover()
    assert not domain.saving and domain.number == 1


def test_running_guest_is_not_started_again(abandon, recover, domain):
    abandon(SUSPENDED)
    assert recover().done == ()
    assert 'create' not in domain.calls


@pytest.mark.parametrize('changes, reason', (
    ({'host': 'compute-2'}, 'the server is on the host compute-2'),
    ({'deleted': True}, 'the server is deleted'),
    ({'vm_state': 'stopped'}, 'the server is stopped'),
    ({'vm_state': 'suspended'}, 'the server is suspended'),
    ({'vm_state': 'error'}, 'the server is error'),
    ({'vm_state': 'resized'}, 'the server is resized'),
    ({'vm_state': 'shelved_offloaded'}, 'the server is shelved_offloaded'),
    ({'task_state': 'deleting'}, 'the server is being deleted'),
    ({'task_state': 'soft-deleting'}, 'the server is being deleted')))
def test_guest_that_is_not_to_run_here_is_not_started(
        changes, reason, abandon, recover, domain, database):
    abandoned.save(domain)
    abandon(SUSPENDED)
    vars(database).update(changes)
    outcome = recover()
    assert outcome.done == ('left the guest as it is: ' + reason,)
    assert not outcome.guest_waits
    assert domain.number is None


@pytest.mark.parametrize('status', ('accepted', 'pre-migrating', 'done'))
def test_guest_that_is_evacuated_is_not_started(status, abandon, recover,
                                                domain, database):
    abandoned.save(domain)
    abandon(SUSPENDED)
    database.migrations.append(fake_cloud.Migration(status=status))
    assert 'evacuated' in recover().done[0]
    assert domain.number is None


@pytest.mark.parametrize('status', ('failed', 'error', 'completed'))
def test_guest_whose_evacuation_is_over_is_started(status, abandon, recover,
                                                   domain, database):
    abandoned.save(domain)
    abandon(SUSPENDED)
    database.migrations.append(fake_cloud.Migration(status=status))
    recover()
    assert domain.number is not None


@pytest.mark.parametrize('state', (
    'powering-off', 'suspending', 'rebooting', 'rebuilding', 'migrating',
    'resize_prep', 'shelving', 'pausing'))
def test_guest_waits_while_nova_is_at_work(state, abandon, recover, domain,
                                           database):
    abandoned.save(domain)
    abandon(SUSPENDED)
    database.task_state = state
    outcome = recover()
    assert state in outcome.failed[0] and outcome.guest_waits
    assert domain.number is None
    database.task_state = None
    assert recover().done == ('started the guest from its saved memory',)


@pytest.mark.parametrize('state', (
    'image_snapshot', 'image_pending_upload', 'image_uploading',
    'image_backup', 'image_snapshot_pending', None))
def test_task_of_a_snapshot_does_not_keep_the_guest(state, abandon, recover,
                                                    domain, database):
    abandoned.save(domain)
    abandon(SUSPENDED)
    database.task_state = state
    recover()
    assert domain.number is not None


def test_guest_waits_for_the_database(abandon, recover, domain, database,
                                      place):
    abandoned.save(domain)
    abandon(SUSPENDED)
    os.mkdir(place.path)
    database.away = True
    outcome = recover()
    assert domain.number is None and outcome.guest_waits
    assert not os.path.exists(place.path)
    database.away = False
    assert recover().done == ('started the guest from its saved memory',)


def test_guest_that_the_tenant_suspends_later_stays_so(abandon, recover,
                                                       domain, cloud):
    """The entry waits for Glance, and what was done is not done again."""
    abandoned.save(domain)
    abandon(SUSPENDED)
    cloud.glance.add(IMAGE)
    cloud.glance.away = True
    assert recover().failed
    assert domain.number is not None
    abandoned.save(domain, abandoned.OTHERS)
    assert recover().failed             # even before the database has it
    cloud.database.vm_state = 'suspended'
    assert recover().failed
    cloud.glance.away = False
    recover()
    assert domain.number is None


def test_guest_that_does_not_start_is_tried_again(abandon, recover, domain):
    abandoned.save(domain)
    abandon(SUSPENDED)
    with mock.patch.object(domain, 'create', side_effect=(
            fake_cloud.libvirt_error(text='no memory'))):
        outcome = recover()
    assert 'no memory' in outcome.failed[0] and outcome.guest_waits
    assert recover().done == ('started the guest from its saved memory',)


def test_guest_without_a_domain_is_left(abandon, recover, domain):
    abandon(SUSPENDED, FROZEN)
    domain.defined = False
    outcome = recover()
    assert 'it has no domain' in outcome.done[0]
    assert not outcome.guest_waits


# A guest that was frozen


def test_nothing_to_thaw(abandon, recover, domain):
    abandon()
    recover()
    assert 'fsThaw' not in domain.calls


def test_thaw_is_for_the_run_that_was_frozen(abandon, recover, domain):
    abandon(FROZEN)
    domain.boot()
    assert 'has ended' in recover().done[0]
    assert 'fsThaw' not in domain.calls


def test_guest_is_thawed_without_the_database(abandon, recover, domain,
                                              database):
    abandoned.freeze(domain)
    abandon(FROZEN)
    database.away = True
    assert 'thawed the guest' in recover().done
    assert domain.frozen is None


def test_guest_of_another_host_is_not_thawed(abandon, recover, domain,
                                             database):
    abandoned.freeze(domain)
    abandon(FROZEN)
    database.host = 'compute-2'
    recover()
    assert 'fsThaw' not in domain.calls


def test_thaw_waits_for_the_agent(abandon, recover, domain):
    abandoned.freeze(domain)
    abandon(FROZEN)
    domain.agent = 'disconnected'

    def connect(seconds):
        domain.agent = 'connected'

    with (mock.patch('time.sleep', connect),
          mock.patch.object(undo, '_AGENT_SECONDS', 60)):
        assert recover().done == ('thawed the guest',)


def test_thaw_is_kept_where_no_agent_comes(abandon, recover, domain):
    abandoned.freeze(domain)
    abandon(FROZEN)
    domain.agent = 'disconnected'
    outcome = recover()
    assert 'no agent runs in the guest' in outcome.failed[0]
    assert outcome.guest_waits
    domain.agent = 'connected'
    assert recover().done == ('thawed the guest',)


def test_agent_without_a_thaw_ends_the_matter(abandon, recover, domain):
    abandon(FROZEN)
    domain.unsupported = True
    outcome = recover()
    assert 'has been disabled' in outcome.done[0]
    assert not outcome.guest_waits


def test_guest_that_was_started_by_hand_is_thawed_later(abandon, recover,
                                                        domain):
    """Its freeze goes on in another QEMU, whose agent is not there yet."""
    abandoned.freeze(domain)
    abandon(FROZEN, SUSPENDED)
    abandoned.save(domain)
    domain.boot()
    domain.agent = 'disconnected'
    assert recover().guest_waits
    domain.agent = 'connected'
    assert recover().done == ('thawed the guest',)
    assert domain.frozen is None


def test_guest_that_is_suspended_while_frozen_is_thawed_later(
        abandon, recover, domain, database):
    """The tenant suspends it before its agent answers: it stays frozen."""
    abandoned.freeze(domain)
    abandon(FROZEN)
    abandoned.save(domain, abandoned.OTHERS)
    database.vm_state = 'suspended'
    assert recover().guest_waits
    domain.boot()
    database.vm_state = 'active'
    assert recover().done == ('thawed the guest',)
    assert domain.frozen is None


def test_dead_between_start_and_note_thaws_all_the_same(abandon, entries,
                                                        recover, cloud):
    abandoned.freeze(cloud.domain)
    abandon(FROZEN, SUSPENDED)
    abandoned.save(cloud.domain)
    with (mock.patch.object(journal.Record, 'unmark',
                            side_effect=KeyboardInterrupt),
          pytest.raises(KeyboardInterrupt)):
        undo.Recovery(abandoned.tools(cloud)).run(entries)
    cloud.domain.agent = 'disconnected'
    recover()
    cloud.domain.agent = 'connected'
    assert recover().done == ('thawed the guest',)


# Devices of the host


@pytest.mark.parametrize('marks', (
    (DETACHED, SUSPENDED), (DETACHED,)),
    ids=('before the save', 'after the start'))
def test_guest_that_runs_gets_its_devices(marks, abandon, recover, domain):
    domain.devices = False
    abandon(*marks)
    outcome = recover()
    assert domain.devices
    assert outcome.failed == () and not outcome.guest_waits


def test_guest_gets_its_devices_once_it_is_started(abandon, recover, domain):
    domain.devices = False
    abandoned.save(domain)
    abandon(DETACHED, SUSPENDED)
    recover()
    assert domain.number is not None and domain.devices


def test_guest_that_is_not_to_run_gets_no_devices(abandon, recover, domain,
                                                  database):
    domain.devices = False
    database.vm_state = 'suspended'
    abandon(DETACHED)
    assert recover().failed == ()
    assert not domain.devices


def test_devices_wait_for_the_database(abandon, recover, domain, database):
    domain.devices = False
    database.away = True
    abandon(DETACHED)
    assert recover().guest_waits
    database.away = False
    recover()
    assert domain.devices


def test_dry_run_attaches_nothing(abandon, recover, domain):
    domain.devices = False
    abandon(DETACHED)
    assert 'would give the guest its devices, if it lacks any' in recover(
        dry_run=True).done
    assert not domain.devices


def test_libvirt_that_does_not_answer_is_not_taken_for_a_guest_that_runs(
        abandon, recover, domain):
    abandoned.save(domain)
    abandon(SUSPENDED)
    with mock.patch.object(domain, 'isActive',
                           side_effect=fake_cloud.libvirt_error()):
        assert recover().guest_waits
    assert recover().done == ('started the guest from its saved memory',)

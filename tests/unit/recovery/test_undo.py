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

"""What an abandoned snapshot left, and what the database says of its server.

With a real journal, and a database, a libvirt and a Glance that are fakes.
"""

import contextlib
import dataclasses
import functools
import os
from unittest import mock

import libvirt
from nova.storage import rbd_utils
import pytest

from nova_snapdriver.capture import direct
from nova_snapdriver.capture import rbd
from nova_snapdriver.capture import workspace
from nova_snapdriver import journal
from nova_snapdriver.recovery import undo
from tests.unit import cloud as fake_cloud
from tests.unit import journal_entry

FROZEN, SUSPENDED, PAUSED = journal.Mark
OURS, OTHERS = fake_cloud.OURS, fake_cloud.OTHERS
IMAGE = journal_entry.ENTRY.image


@pytest.fixture
def cloud():
    with (fake_cloud.Cloud().seen() as made,
          mock.patch.object(undo, '_AGENT_SECONDS', 0)):
        yield made
        assert made.violations == []


@pytest.fixture
def domain(cloud):
    return cloud.domain


@pytest.fixture
def database(cloud):
    return cloud.database


@pytest.fixture
def place(tmp_path):
    return workspace.Workspace(str(tmp_path / 'snapdriver-01234567'))


@pytest.fixture
def entries(tmp_path):
    return journal.Journal(str(tmp_path / 'journal'), journal_entry.HOST)


@pytest.fixture
def abandon(entries, place, cloud):
    """Leave an entry as a snapshot that was killed does, with its marks."""
    def call(*marks, planned=journal.Planned('live'), **changes):
        entry = dataclasses.replace(
            journal_entry.ENTRY, workspace=place.path, socket=place.socket)
        with contextlib.closing(entries.begin(
                dataclasses.replace(entry, **changes))) as record:
            record.note_planned(planned)
            for mark in marks:
                record.mark(mark, run(cloud))
    return call


def run(cloud):
    """How the present run of the domain is told from another."""
    boot = undo.snap_guest._BOOT_ID.read_text().strip()
    return '%s %s' % (boot, cloud.domain.number or 'stopped')


@pytest.fixture
def recover(cloud, entries):
    """Recover what the tests above it left: one entry, once."""
    def call(dry_run=False):
        outcome, = undo.Recovery(undo.Tools(cloud, cloud.launch, 5),
                                 dry_run).run(entries)
        assert kept(entries) == bool(outcome.failed or dry_run)
        return outcome
    return call


def kept(entries):
    return any(name.endswith('.json')
               for name in os.listdir(entries._directory))


def freeze(domain, who=OURS):
    domain.frozen, domain.settled = who, who is not OURS


def save(domain, who=OURS):
    domain.save(who)


# The jobs


def test_job_is_ended_before_the_thaw(abandon, recover, domain, place):
    domain.backup = place.socket
    freeze(domain)
    abandon(FROZEN)
    assert recover().done == ('ended its backup job', 'thawed the guest')
    assert domain.backup is None and domain.frozen is None
    assert domain.calls.index('abortJob') < domain.calls.index('fsThaw')


def test_job_of_another_client_is_left_alone(abandon, recover, domain):
    domain.backup = '/other/nbd'
    abandon()
    assert recover().done == ()
    assert domain.backup == '/other/nbd'


def test_block_copy_is_ended(abandon, recover, domain, place):
    domain.copy = place.overlay
    abandon()
    assert recover().done == ('ended its block copy',)
    assert domain.copy is None


def test_block_copy_to_another_file_is_left_alone(abandon, recover, domain):
    domain.copy = '/other/overlay'
    abandon()
    assert recover().done == ()
    assert domain.copy == '/other/overlay'


@pytest.mark.parametrize('error', (
    libvirt.libvirtError('libvirt is busy'), ZeroDivisionError()))
def test_step_that_fails_keeps_no_other(error, abandon, recover, domain,
                                        cloud, place):
    domain.backup = place.socket
    domain.abortJob = mock.Mock(side_effect=error)
    freeze(domain)
    abandon(FROZEN)
    cloud.glance.add(IMAGE)
    outcome = recover()
    assert len(outcome.failed) == 1
    # Least of all the thaw.
    assert domain.frozen is None
    assert cloud.glance.images == {}


def test_what_was_done_is_not_done_again(abandon, recover, domain, cloud):
    freeze(domain)
    abandon(FROZEN)
    cloud.glance.add(IMAGE)
    cloud.glance.away = True
    assert 'thawed the guest' in recover().done
    freeze(domain, OTHERS)
    domain.settled, cloud.glance.away = True, False
    assert recover().done == ('deleted image %s' % IMAGE,)
    assert domain.frozen == OTHERS


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
    assert len(outcome.failed) == 1 and outcome.guest_waits
    assert domain.paused == 'io'


# A guest that was suspended


def test_suspended_guest_is_started(abandon, recover, domain):
    save(domain)
    abandon(SUSPENDED)
    assert recover().done == ('started the guest from its saved memory',)
    assert domain.number is not None


def test_frozen_guest_is_started_and_then_thawed(abandon, recover, domain):
    freeze(domain)
    abandon(FROZEN, SUSPENDED)
    save(domain)
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
    save(domain)
    abandon(SUSPENDED)
    vars(database).update(changes)
    outcome = recover()
    assert outcome.done == ('left the guest as it is: ' + reason,)
    assert not outcome.guest_waits
    assert domain.number is None


@pytest.mark.parametrize('status', ('accepted', 'pre-migrating', 'done'))
def test_guest_that_is_evacuated_is_not_started(status, abandon, recover,
                                                domain, database):
    save(domain)
    abandon(SUSPENDED)
    database.migrations.append(fake_cloud.Migration(status=status))
    assert 'evacuated' in recover().done[0]
    assert domain.number is None


@pytest.mark.parametrize('status', ('failed', 'error', 'completed'))
def test_guest_whose_evacuation_is_over_is_started(status, abandon, recover,
                                                   domain, database):
    save(domain)
    abandon(SUSPENDED)
    database.migrations.append(fake_cloud.Migration(status=status))
    recover()
    assert domain.number is not None


@pytest.mark.parametrize('state', (
    'powering-off', 'suspending', 'rebooting', 'rebuilding', 'migrating',
    'resize_prep', 'shelving', 'pausing'))
def test_guest_waits_while_nova_is_at_work(state, abandon, recover, domain,
                                           database):
    save(domain)
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
    save(domain)
    abandon(SUSPENDED)
    database.task_state = state
    recover()
    assert domain.number is not None


def test_guest_waits_for_the_database(abandon, recover, domain, database,
                                      place):
    save(domain)
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
    save(domain)
    abandon(SUSPENDED)
    cloud.glance.add(IMAGE)
    cloud.glance.away = True
    assert recover().failed
    assert domain.number is not None
    save(domain, OTHERS)
    assert recover().failed             # even before the database has it
    cloud.database.vm_state = 'suspended'
    assert recover().failed
    cloud.glance.away = False
    recover()
    assert domain.number is None


def test_guest_that_does_not_start_is_tried_again(abandon, recover, domain):
    save(domain)
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
    freeze(domain)
    abandon(FROZEN)
    database.away = True
    assert 'thawed the guest' in recover().done
    assert domain.frozen is None


def test_guest_of_another_host_is_not_thawed(abandon, recover, domain,
                                             database):
    freeze(domain)
    abandon(FROZEN)
    database.host = 'compute-2'
    recover()
    assert 'fsThaw' not in domain.calls


def test_thaw_waits_for_the_agent(abandon, recover, domain):
    freeze(domain)
    abandon(FROZEN)
    domain.agent = 'disconnected'

    def connect(seconds):
        domain.agent = 'connected'

    with (mock.patch('time.sleep', connect),
          mock.patch.object(undo, '_AGENT_SECONDS', 60)):
        assert recover().done == ('thawed the guest',)


def test_thaw_is_kept_where_no_agent_comes(abandon, recover, domain):
    freeze(domain)
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
    freeze(domain)
    abandon(FROZEN, SUSPENDED)
    save(domain)
    domain.boot()
    domain.agent = 'disconnected'
    assert recover().guest_waits
    domain.agent = 'connected'
    assert recover().done == ('thawed the guest',)
    assert domain.frozen is None


def test_guest_that_is_suspended_while_frozen_is_thawed_later(
        abandon, recover, domain, database):
    """The tenant suspends it before its agent answers: it stays frozen."""
    freeze(domain)
    abandon(FROZEN)
    save(domain, OTHERS)
    database.vm_state = 'suspended'
    assert recover().guest_waits
    domain.boot()
    database.vm_state = 'active'
    assert recover().done == ('thawed the guest',)
    assert domain.frozen is None


def test_dead_between_start_and_note_thaws_all_the_same(abandon, entries,
                                                        recover, cloud):
    freeze(cloud.domain)
    abandon(FROZEN, SUSPENDED)
    save(cloud.domain)
    with (mock.patch.object(journal.Record, 'unmark',
                            side_effect=KeyboardInterrupt),
          pytest.raises(KeyboardInterrupt)):
        undo.Recovery(undo.Tools(cloud, cloud.launch, 5)).run(entries)
    cloud.domain.agent = 'disconnected'
    recover()
    cloud.domain.agent = 'connected'
    assert recover().done == ('thawed the guest',)


def test_libvirt_that_does_not_answer_is_not_taken_for_a_guest_that_runs(
        abandon, recover, domain):
    save(domain)
    abandon(SUSPENDED)
    with mock.patch.object(domain, 'isActive',
                           side_effect=fake_cloud.libvirt_error()):
        assert recover().guest_waits
    assert recover().done == ('started the guest from its saved memory',)


# Files


def test_files_are_removed(abandon, recover, place):
    os.mkdir(place.path)
    with open(place.scratch, 'w'):
        pass
    abandon()
    assert recover().done == ('removed ' + place.path,)
    assert not os.path.exists(place.path)


@pytest.mark.parametrize('directory', (
    '/', '/etc', 'snapdriver-01234567', '/a/../snapdriver-01234567',
    '/tmp/snapdriver-01234567/..', '/tmp/other', ''))
def test_directory_that_is_none_of_ours_is_not_removed(directory, abandon,
                                                       recover):
    abandon(workspace=directory)
    with mock.patch('shutil.rmtree') as rmtree:
        outcome = recover()
    rmtree.assert_not_called()
    assert 'no directory of a snapshot' in outcome.failed[0]


def test_link_in_the_place_of_a_directory_is_not_followed(abandon, recover,
                                                          place, tmp_path):
    target = tmp_path / 'target'
    target.mkdir()
    (target / 'file').touch()
    os.symlink(target, place.path)
    abandon()
    assert len(recover().failed) == 1
    assert (target / 'file').exists()


def test_what_cannot_be_removed_keeps_the_entry(abandon, recover, place):
    os.mkdir(place.path)
    abandon()
    with mock.patch('shutil.rmtree', side_effect=PermissionError('no')):
        assert recover().failed == ('no',)
    assert recover().done == ('removed ' + place.path,)


def test_directory_that_cannot_be_looked_at_keeps_the_entry(abandon, recover,
                                                            place):
    """A file server that is away says ESTALE or EIO, and not ENOENT."""
    abandon()
    stat, lstat = os.stat, os.lstat

    def fail_or(call, path, *args, **kwargs):
        if path == place.path:
            raise OSError(116, 'Stale file handle')
        return call(path, *args, **kwargs)

    with (mock.patch('os.stat', functools.partial(fail_or, stat)),
          mock.patch('os.lstat', functools.partial(fail_or, lstat))):
        outcome = recover()
    assert 'Stale file handle' in outcome.failed[0]


# Images


def test_unfinished_image_is_deleted(abandon, recover, cloud):
    cloud.glance.add(IMAGE)
    abandon()
    assert recover().done == ('deleted image %s' % IMAGE,)
    assert cloud.glance.images == {}


def test_image_that_is_gone_is_no_work(abandon, recover):
    abandon()
    assert recover().done == ()


def test_image_that_nobody_shows_us_keeps_the_entry(abandon, recover, cloud):
    cloud.glance.add(IMAGE)
    cloud.glance.hidden = True
    abandon(visible=False)
    outcome = recover()
    assert 'the role admin' in outcome.failed[0]
    cloud.glance.hidden = False
    assert recover().done == ('deleted image %s' % IMAGE,)


def test_not_found_is_gone_for_one_who_sees_all(abandon, recover):
    """Glance was away when it was looked for at the beginning."""
    abandon(visible=False)
    assert recover().failed == ()


def test_image_that_was_deleted_by_us_is_known_to_be_gone(abandon, recover,
                                                          cloud, domain):
    """Also if nobody would have shown it: "not found" is right then."""
    cloud.glance.add(IMAGE)
    freeze(domain)
    abandon(FROZEN, visible=False)
    domain.agent = 'disconnected'
    assert recover().done == ('deleted image %s' % IMAGE,)
    domain.agent, cloud.glance.hidden = 'connected', True
    outcome = recover()
    assert (outcome.done, outcome.failed) == (('thawed the guest',), ())


# Copies in Ceph


SNAPSHOT, CLONE = 'rbd://f/vms/disk/snap', 'rbd://f/images/image/snap'
DIRECT = journal.Planned('direct', (SNAPSHOT,), CLONE)


@pytest.fixture
def ceph():
    """The calls that remove something."""
    calls = []

    def remove(what, driver, url):
        calls.append((what, url))
        return ['removed ' + url]

    with (mock.patch.object(rbd_utils, 'RBDDriver'),
          mock.patch.object(direct, 'remove_clone',
                            lambda *args: remove('clone', *args)),
          mock.patch.object(rbd, 'remove',
                            lambda *args: remove('snapshot', *args))):
        yield calls


def test_clone_is_removed_before_the_snapshot(abandon, recover, ceph):
    abandon(planned=DIRECT)
    recover()
    assert ceph == [('clone', CLONE), ('snapshot', SNAPSHOT)]


def test_clone_that_is_an_image_stays(abandon, recover, cloud, ceph):
    cloud.glance.add(IMAGE)
    cloud.glance.images[IMAGE]['status'] = 'active'
    abandon(planned=DIRECT)
    recover()
    assert ceph == [('snapshot', SNAPSHOT)]


def test_clone_of_an_image_that_is_known_to_be_gone_is_removed(
        abandon, recover, entries, cloud, ceph):
    cloud.glance.hidden = True
    abandon(planned=DIRECT, visible=False)
    record, = entries.abandoned()
    with contextlib.closing(record):
        record.note_gone()
    assert recover().failed == ()
    assert ceph == [('clone', CLONE), ('snapshot', SNAPSHOT)]


def test_clone_stays_where_nobody_shows_us_the_image(abandon, recover, cloud,
                                                     ceph):
    cloud.glance.hidden = True
    abandon(planned=DIRECT, visible=False)
    outcome = recover()
    assert 'the role admin' in outcome.failed[0]
    assert ceph == []


def test_clone_stays_while_glance_is_away(abandon, recover, cloud, ceph):
    cloud.glance.away = True
    abandon(planned=DIRECT)
    recover()
    assert ceph == []


# The entry


@pytest.mark.parametrize('end', (KeyboardInterrupt, SystemExit))
def test_entry_survives_the_end_of_the_process(end, abandon, entries, cloud):
    abandon()
    with (mock.patch.object(undo.images, 'delete_unfinished',
                            side_effect=end), pytest.raises(end)):
        undo.Recovery(undo.Tools(cloud, cloud.launch, 5)).run(entries)
    found, = entries.abandoned()
    found.close()


def test_dry_run_does_nothing(abandon, recover, domain, cloud, place,
                              tmp_path):
    domain.backup, domain.copy = place.socket, place.overlay
    freeze(domain)
    abandon(FROZEN)
    os.mkdir(place.path)
    cloud.glance.add(IMAGE)
    before = sorted(tmp_path.rglob('*'))
    done = '; '.join(recover(dry_run=True).done)
    for words in ('backup job', 'block copy', 'thaw', place.path, IMAGE):
        assert words in done
    assert sorted(tmp_path.rglob('*')) == before
    assert domain.backup and domain.copy and domain.frozen
    assert cloud.glance.images


@pytest.mark.parametrize('marks', ((SUSPENDED,), (SUSPENDED, FROZEN)))
def test_dry_run_starts_no_guest(marks, abandon, recover, domain):
    save(domain)
    abandon(*marks)
    assert 'would start the guest' in recover(dry_run=True).done[0]
    assert domain.number is None


def test_entry_that_cannot_be_removed_hides_no_other(abandon, entries, cloud):
    abandon()
    abandon(image=IMAGE[:-1] + '2')
    with mock.patch('pathlib.Path.unlink', side_effect=OSError('read-only')):
        outcomes = undo.Recovery(undo.Tools(cloud, cloud.launch, 5)).run(
            entries)
    assert [outcome.failed for outcome in outcomes] == [('read-only',)] * 2


def test_companion_that_is_no_file_hides_no_other(abandon, entries, cloud):
    abandon()
    first, = entries._directory.glob('*.json')
    first.with_suffix('.suspended').mkdir()
    abandon(image=IMAGE[:-1] + '2')
    outcomes = undo.Recovery(undo.Tools(cloud, cloud.launch, 5)).run(entries)
    assert sorted(bool(outcome.failed) for outcome in outcomes) == [
        False, True]


def test_entry_of_another_host_is_left_alone(abandon, entries, cloud, domain,
                                             place):
    domain.backup = place.socket
    abandon(FROZEN, host='compute-2')
    assert undo.Recovery(undo.Tools(cloud, cloud.launch, 5)).run(
        entries) == []
    assert domain.backup and kept(entries)

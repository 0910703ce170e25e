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

"""The jobs, files and images of an abandoned snapshot, and its entry.

With a real journal, and a database, a libvirt and a Glance that are fakes.
"""

import contextlib
import functools
import os
from unittest import mock

import libvirt
from nova.storage import rbd_utils
import pytest

from nova_snapdriver.capture import direct
from nova_snapdriver.capture import rbd
from nova_snapdriver import journal
from nova_snapdriver.recovery import undo
from tests.unit import journal_entry
from tests.unit.recovery import abandoned

FROZEN, SUSPENDED, _, PAUSED = journal.Mark
IMAGE = journal_entry.ENTRY.image


# The jobs


def test_job_is_ended_before_the_thaw(abandon, recover, domain, place):
    domain.backup = place.socket
    abandoned.freeze(domain)
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
    abandoned.freeze(domain)
    abandon(FROZEN)
    cloud.glance.add(IMAGE)
    outcome = recover()
    assert len(outcome.failed) == 1
    # Least of all the thaw.
    assert domain.frozen is None
    assert cloud.glance.images == {}


def test_what_was_done_is_not_done_again(abandon, recover, domain, cloud):
    abandoned.freeze(domain)
    abandon(FROZEN)
    cloud.glance.add(IMAGE)
    cloud.glance.away = True
    assert 'thawed the guest' in recover().done
    abandoned.freeze(domain, abandoned.OTHERS)
    domain.settled, cloud.glance.away = True, False
    assert recover().done == ('deleted image %s' % IMAGE,)
    assert domain.frozen == abandoned.OTHERS


# What Nova's API shows


@pytest.mark.parametrize('state', (None, 'image_uploading'))
def test_progress_is_cleared(state, abandon, recover, database):
    database.progress, database.task_state = 42, state
    abandon()
    recover()
    assert database.progress == 0


def test_dry_run_clears_no_progress(abandon, recover, database):
    database.progress = 42
    abandon()
    recover(dry_run=True)
    assert database.progress == 42


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
    abandoned.freeze(domain)
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
        undo.Recovery(abandoned.tools(cloud)).run(entries)
    found, = entries.abandoned()
    found.close()


def test_dry_run_does_nothing(abandon, recover, domain, cloud, place,
                              tmp_path):
    domain.backup, domain.copy = place.socket, place.overlay
    abandoned.freeze(domain)
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
    abandoned.save(domain)
    abandon(*marks)
    assert 'would start the guest' in recover(dry_run=True).done[0]
    assert domain.number is None


def test_entry_that_cannot_be_removed_hides_no_other(abandon, entries, cloud):
    abandon()
    abandon(image=IMAGE[:-1] + '2')
    with mock.patch('pathlib.Path.unlink', side_effect=OSError('read-only')):
        outcomes = undo.Recovery(abandoned.tools(cloud)).run(
            entries)
    assert [outcome.failed for outcome in outcomes] == [('read-only',)] * 2


def test_companion_that_is_no_file_hides_no_other(abandon, entries, cloud):
    abandon()
    first, = entries._directory.glob('*.json')
    first.with_suffix('.suspended').mkdir()
    abandon(image=IMAGE[:-1] + '2')
    outcomes = undo.Recovery(abandoned.tools(cloud)).run(entries)
    assert sorted(bool(outcome.failed) for outcome in outcomes) == [
        False, True]


def test_entry_of_another_host_is_left_alone(abandon, entries, cloud, domain,
                                             place):
    domain.backup = place.socket
    abandon(FROZEN, host='compute-2')
    assert undo.Recovery(abandoned.tools(cloud)).run(
        entries) == []
    assert domain.backup and abandoned.kept(entries)


def test_what_stays_the_same_is_logged_once(abandon, entries, cloud, caplog):
    """It is tried again every half a minute, for a day perhaps."""
    cloud.glance.add(journal_entry.ENTRY.image)
    abandon()
    recovery = undo.Recovery(abandoned.tools(cloud))
    cloud.glance.away = True
    for _ in range(3):
        recovery.run(entries)
    assert caplog.text.count('could not be cleaned up') == 1
    cloud.glance.away, cloud.database.away = False, True
    recovery.run(entries)
    assert caplog.text.count('could not be cleaned up') == 2
    cloud.database.away = False
    recovery.run(entries)
    assert 'deleted image' in caplog.text

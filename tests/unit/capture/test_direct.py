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

"""What a failed copy in Ceph leaves, and whose it is."""

import types
from unittest import mock

from nova import exception as nova_exception
import pytest

from nova_snapdriver.capture import direct
from nova_snapdriver.capture import export
from nova_snapdriver.capture import quiesce
from nova_snapdriver.capture import rbd
from nova_snapdriver import exception
from nova_snapdriver import journal
from tests.unit import notes as capture_notes

CLONE = 'rbd://cluster/images/image/snap'


class Ceph:
    """Nova's RBDDriver, with the images and snapshots that there are."""

    pool = 'vms'

    def __init__(self):
        self.there = {('vms', 'disk', 'abc'), ('images', 'image', 'snap'),
                      ('images', 'image', None)}
        self.removed = []
        self.error = None

    def parse_url(self, url):
        return url.removeprefix('rbd://').split('/')

    def get_fsid(self):
        return 'cluster'

    def exists(self, image, pool=None, snapshot=None):
        if self.error is not None:
            raise self.error
        return (pool, image, snapshot) in self.there

    def remove_snap(self, image, name, pool=None, force=False):
        self._remove((pool, image, name))

    def destroy_volume(self, image, pool=None):
        self._remove((pool, image, None))

    def _remove(self, what):
        self.there.remove(what)
        self.removed.append(what)


ALL = [('images', 'image', 'snap'), ('images', 'image', None),
       ('vms', 'disk', 'abc')]


@pytest.fixture
def ceph():
    return Ceph()


@pytest.fixture
def route(ceph):
    backend = types.SimpleNamespace(driver=ceph, rbd_name='disk')
    return direct.Route(rbd.Snapshot(backend, 'cluster', 'abc'), 'base', CLONE)


@pytest.fixture
def on_leftover():
    return mock.Mock()


def fail(route, on_leftover, error, is_unused):
    with (pytest.raises(error),
          direct.removed_on_error(
              route.undo, str(route), on_leftover, is_unused)):
        raise error('x')


def test_copy_is_removed_before_the_snapshot(route, ceph, on_leftover):
    fail(route, on_leftover, OSError, lambda: True)
    assert ceph.removed == ALL
    on_leftover.assert_not_called()


def test_copy_that_may_be_an_image_stays(route, ceph, on_leftover):
    """Glance says that it does not know the image, or not to this user."""
    fail(route, on_leftover, OSError, lambda: False)
    assert ceph.removed == []
    on_leftover.assert_called_once_with()


@pytest.mark.parametrize('error', (
    nova_exception.GlanceConnectionFailed(server='g', reason='away'),
    ZeroDivisionError()))
def test_copy_stays_where_nobody_says_whether_it_is_an_image(
        error, route, ceph, on_leftover):
    fail(route, on_leftover, KeyError, mock.Mock(side_effect=error))
    assert ceph.removed == []
    on_leftover.assert_called_once_with()


def test_refused_copy_is_removed_without_asking(route, ceph, on_leftover):
    """The image is queued as before, and another path fills it."""
    fail(route, on_leftover, exception.DirectRefused, pytest.fail)
    assert ceph.removed == ALL


@pytest.mark.parametrize('error', (KeyboardInterrupt, SystemExit))
def test_end_of_the_process_is_an_error_like_another(error, route, ceph,
                                                     on_leftover):
    fail(route, on_leftover, error, lambda: True)
    assert ceph.removed == ALL


def test_copy_that_cannot_be_removed_hides_no_error(route, ceph, on_leftover):
    ceph.error = OSError('no route')
    fail(route, on_leftover, KeyError, lambda: True)
    on_leftover.assert_called_once_with()


def test_copy_that_is_done_stays(route, ceph, on_leftover):
    with direct.removed_on_error(route.undo, str(route), on_leftover,
                                 pytest.fail):
        pass
    assert ceph.removed == []
    on_leftover.assert_not_called()


def test_copy_in_another_cluster_is_not_removed(ceph):
    with pytest.raises(nova_exception.ImageUnacceptable):
        direct.remove_clone(ceph, CLONE.replace('cluster', 'other'))
    assert ceph.removed == []


# The freeze


@pytest.fixture
def guest(guest):
    guest.exists.return_value = guest.is_saved.return_value = False
    return guest


def copy(route, guest, notes, direct_snapshot, runs=True):
    route.snapshot.backend.direct_snapshot = direct_snapshot
    return direct.copy(route, None, 'image', guest,
                       quiesce.Settings(5, True, False), notes, runs)


def test_guest_is_frozen_for_the_snapshot_of_its_disk_alone(route, guest,
                                                            ceph):
    notes, backend = capture_notes.Notes(), route.snapshot.backend
    seen = []
    ceph.create_snap = lambda image, name, pool=None, protect=False: (
        seen.append((image, journal.Mark.FROZEN in notes.marks)))

    def direct_snapshot(context, name, image_format, image_id, base):
        backend.driver.create_snap('disk', name, protect=True)
        backend.driver.create_snap('image', 'snap', pool='images')
        return 'rbd://there'

    copied = copy(route, guest, notes, direct_snapshot)
    assert seen == [('disk', True), ('image', False)]
    assert copied.consistency is export.Consistency.FILESYSTEM
    assert notes.marks == {} and backend.driver is ceph


def test_stopped_guest_is_not_frozen(route, guest):
    copied = copy(route, guest, capture_notes.Notes(),
                  lambda *args: 'rbd://there', runs=False)
    assert copied.consistency is export.Consistency.OFFLINE
    guest.freeze.assert_not_called()


def test_suspended_guest_has_its_file_systems_mounted(route, guest):
    guest.is_saved.return_value = True
    copied = copy(route, guest, capture_notes.Notes(),
                  lambda *args: 'rbd://there', runs=False)
    assert copied.consistency is export.Consistency.CRASH


def test_suspended_guest_that_has_to_be_quiesced_is_not_copied(route, guest):
    guest.is_saved.return_value = True
    route.snapshot.backend.direct_snapshot = mock.Mock()
    with pytest.raises(exception.QuiesceFailed, match='resume the server'):
        direct.copy(route, None, 'image', guest,
                    quiesce.Settings(5, True, True), capture_notes.Notes(),
                    False)
    route.snapshot.backend.direct_snapshot.assert_not_called()


@pytest.mark.parametrize('error, raised', (
    (OSError('no route'), exception.DirectRefused),
    (exception.QuiesceFailed(reason='x'), exception.QuiesceFailed),
    (nova_exception.ImageNotFound(image_id='i'),
     nova_exception.ImageNotFound)))
def test_what_another_path_would_not_help_is_raised(error, raised, route,
                                                    guest, ceph):
    with pytest.raises(raised):
        copy(route, guest, capture_notes.Notes(), mock.Mock(side_effect=error))
    assert route.snapshot.backend.driver is ceph

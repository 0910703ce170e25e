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

import errno
import os
import stat
from unittest import mock

import pytest

from nova_snapdriver.capture import workspace
from nova_snapdriver import exception

OTHER_USER = 64055


@pytest.fixture(params=(0, 0o022, 0o077))
def umask(request):
    before = os.umask(request.param)
    yield
    os.umask(before)


def mode(path):
    return stat.S_IMODE(os.stat(path).st_mode)


def test_private_and_removed(tmp_path, umask):
    place = workspace.locate(str(tmp_path))
    with workspace.private(place, None, pytest.fail):
        assert mode(place.path) == 0o700
        with open(place.scratch, 'w'):
            pass
    assert list(tmp_path.iterdir()) == []


@mock.patch('nova.privsep.path.chown', autospec=True)
def test_given_to_the_user_of_qemu(chown, tmp_path, umask):
    place = workspace.locate(str(tmp_path))
    with workspace.private(place, OTHER_USER, pytest.fail):
        assert mode(place.path) == 0o770
        assert os.stat(place.path).st_gid == os.getegid()
        chown.assert_called_once_with(place.path, uid=OTHER_USER)


def test_scratch_directory_is_made_so_that_qemu_can_pass(tmp_path, umask):
    parent = tmp_path / 'snapshots'
    with workspace.private(workspace.locate(str(parent)), None, pytest.fail):
        assert mode(parent) == 0o711


def test_removed_after_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError):
        with workspace.private(workspace.locate(str(tmp_path)), None,
                               pytest.fail):
            raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_removed_where_it_cannot_be_given(tmp_path):
    with mock.patch('nova.privsep.path.chown', autospec=True,
                    side_effect=ZeroDivisionError):
        with pytest.raises(ZeroDivisionError):
            place = workspace.locate(str(tmp_path))
            with workspace.private(place, OTHER_USER, pytest.fail):
                raise AssertionError('made')
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('error', (errno.EPERM, errno.EACCES))
def test_nfs_that_trusts_no_root(error, tmp_path):
    """Everybody may make a directory there, and nobody may give it away."""
    refusal = OSError(error, os.strerror(error))
    place = workspace.locate(str(tmp_path))
    with (mock.patch('nova.privsep.path.chown', autospec=True,
                     side_effect=refusal),
          pytest.raises(exception.DirectoryUnusable,
                        match='no_root_squash.*scratch_directory')):
        workspace.try_out(place, OTHER_USER)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('error', (errno.EACCES, errno.EDQUOT, errno.EROFS))
def test_directory_where_nothing_can_be_made(error, tmp_path):
    refusal = OSError(error, os.strerror(error))
    with (mock.patch('os.mkdir', autospec=True, side_effect=refusal),
          pytest.raises(exception.DirectoryUnusable,
                        match='%s.*scratch_directory' % os.strerror(error))):
        workspace.try_out(workspace.locate(str(tmp_path)), None)


def test_nothing_is_left_of_the_trial(tmp_path):
    workspace.try_out(workspace.locate(str(tmp_path)), None)
    assert list(tmp_path.iterdir()) == []


def test_longest_path_of_a_socket():
    rest = '/snapdriver-01234567/nbd'
    longest = '/'.ljust(workspace.MAX_SOCKET_PATH - len(rest), 'd')
    with mock.patch('os.path.isdir', return_value=True), \
            mock.patch('os.access', return_value=True), \
            mock.patch.object(workspace, '_require_trusted'):
        workspace.check(workspace.locate(longest))
        with pytest.raises(exception.DirectoryUnusable, match='108 bytes'):
            workspace.check(workspace.locate(longest + 'd'))


def test_directory_that_cannot_be_made(tmp_path, monkeypatch):
    # How long the path is depends on who runs the tests.
    monkeypatch.setattr(workspace, 'MAX_SOCKET_PATH', 4096)
    (tmp_path / 'file').touch()
    with pytest.raises(exception.DirectoryUnusable, match='cannot make'):
        workspace.check(workspace.locate(
            str(tmp_path / 'file' / 'directory')))


def test_first_closed_directory_is_named(tmp_path):
    os.chmod(tmp_path, 0o711)
    closed = tmp_path / 'closed'
    inner = closed / 'inner'
    inner.mkdir(parents=True, mode=0o711)
    closed.chmod(0o700)
    found = workspace.unreachable(str(inner), OTHER_USER, OTHER_USER)
    assert found is not None
    assert str(closed).startswith(found)
    assert workspace.unreachable(str(inner), 0, 0) is None


def test_link_to_the_scratch_directory_is_followed_once(tmp_path):
    real, link = tmp_path / 'real', tmp_path / 'link'
    real.mkdir()
    link.symlink_to(real)
    place = workspace.locate(str(link))
    link.unlink()
    with workspace.private(place, None, pytest.fail):
        assert [path.name for path in real.iterdir()] == [
            os.path.basename(place.path)]


def test_directory_of_another_user_is_not_trusted(tmp_path):
    info = os.stat(tmp_path)
    theirs = os.stat_result((*info[:4], OTHER_USER, *info[5:10]))
    with mock.patch('os.stat', return_value=theirs), \
            mock.patch.object(workspace, '_trusted', return_value={0}):
        with pytest.raises(exception.DirectoryUnusable,
                           match='belongs to user %d' % OTHER_USER):
            workspace._require_trusted(str(tmp_path))


@pytest.mark.parametrize('bits, trusted', (
    (0o755, True), (0o770, True), (0o1777, True), (0o777, False)))
def test_directory_that_everybody_writes_is_not_trusted(tmp_path, bits,
                                                        trusted):
    tmp_path.chmod(bits)
    if trusted:
        workspace.check(workspace.locate(str(tmp_path)))
        return
    with pytest.raises(exception.DirectoryUnusable, match='everybody'):
        workspace.check(workspace.locate(str(tmp_path)))

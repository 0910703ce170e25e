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

"""What root gives to another user, and what it refuses."""

import os
import socket

import pytest

from nova_snapdriver.capture import privsep
from nova_snapdriver.capture import workspace
from nova_snapdriver import exception

QEMU = 64055
OTHER = 64056

as_root = pytest.mark.skipif(os.geteuid() != 0,
                             reason='only root can change the owner of a file')


@pytest.fixture
def place(tmp_path):
    """A workspace of QEMU's user, with a target that is not its own."""
    found = workspace.Workspace(str(tmp_path / 'snapdriver-01234567'))
    os.mkdir(found.path)
    return found


@pytest.fixture
def target(tmp_path):
    path = tmp_path / 'target'
    path.write_text('secret')
    return path


def make(path, uid=QEMU):
    with open(path, 'w'):
        pass
    os.chown(path, uid, -1)


def owner(path):
    return os.stat(path, follow_symlinks=False).st_uid


@as_root
def test_file_of_its_user_is_given(place):
    make(place.overlay)
    privsep._give(place.overlay, QEMU, OTHER)
    assert owner(place.overlay) == OTHER


@as_root
def test_socket_of_its_user_is_given(place):
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(place.socket)
        os.chown(place.socket, QEMU, -1)
        privsep._give(place.socket, QEMU, OTHER)
    assert owner(place.socket) == OTHER


@as_root
def test_group_and_mode_stay(place):
    make(place.overlay)
    os.chmod(place.overlay, 0o640)
    before = os.stat(place.overlay)
    privsep._give(place.overlay, QEMU, OTHER)
    after = os.stat(place.overlay)
    assert (after.st_gid, after.st_mode) == (before.st_gid, before.st_mode)


def refused(path, uid=QEMU):
    with pytest.raises(exception.DiskUnusable, match='exchanged'):
        privsep._give(path, uid, OTHER)


@as_root
def test_link_is_not_followed(place, target):
    os.chown(target, QEMU, -1)
    os.symlink(target, place.socket)
    os.chown(place.socket, QEMU, -1, follow_symlinks=False)
    refused(place.socket)
    assert owner(target) == owner(place.socket) == QEMU


@as_root
def test_file_with_another_name_is_refused(place, target):
    """A hard link to a file of the user, which root is not to give away."""
    os.chown(target, QEMU, -1)
    os.link(target, place.socket)
    refused(place.socket)
    assert owner(target) == QEMU


@as_root
def test_file_of_another_user_is_refused(place):
    make(place.overlay, OTHER)
    refused(place.overlay)
    assert owner(place.overlay) == OTHER


@as_root
def test_file_of_root_is_refused(place, target):
    os.rename(target, place.overlay)
    refused(place.overlay)
    assert owner(place.overlay) == 0


@pytest.mark.parametrize('kind', (os.mkdir, os.mkfifo))
def test_what_is_neither_file_nor_socket_is_refused(kind, place):
    kind(place.socket)
    refused(place.socket, os.geteuid())
    assert owner(place.socket) == os.geteuid()


def test_device_is_refused():
    refused('/dev/null', owner('/dev/null'))


@as_root
def test_link_to_the_directory_is_not_followed(place, tmp_path):
    elsewhere = tmp_path / 'elsewhere'
    os.rename(place.path, elsewhere)
    make(elsewhere / 'overlay')
    os.symlink(elsewhere, place.path)
    with pytest.raises(OSError):
        privsep._give(place.overlay, QEMU, OTHER)
    assert owner(elsewhere / 'overlay') == QEMU


def test_file_that_is_gone_is_an_error(place):
    with pytest.raises(FileNotFoundError):
        privsep._give(place.overlay, QEMU, OTHER)


@as_root
def test_file_that_is_exchanged_meanwhile_keeps_its_owner(place, target,
                                                          monkeypatch):
    """What was opened and looked at is given, whatever has its name by now."""
    make(place.overlay)
    opened = os.open(place.overlay, os.O_RDONLY)
    real = privsep._require_made_by

    def exchange(found, uid, path):
        real(found, uid, path)
        os.unlink(path)
        os.symlink(target, path)

    monkeypatch.setattr(privsep, '_require_made_by', exchange)
    try:
        privsep._give(place.overlay, QEMU, OTHER)
        assert os.fstat(opened).st_uid == OTHER
    finally:
        os.close(opened)
    assert owner(target) == 0


@pytest.mark.parametrize('path', (
    '/etc/shadow', '/scratch/snapdriver-01234567/scratch', 'nbd',
    '/scratch/snapdriver-01234567/../nbd', '/scratch/other/nbd',
    'snapdriver-01234567/nbd', '/scratch/snapdriver-01234567/nbd/overlay'))
def test_path_that_is_no_file_of_a_snapshot_is_refused(path):
    with pytest.raises(exception.DiskUnusable, match='no file of a snapshot'):
        privsep._require_workspace_file(path)


@pytest.mark.parametrize('name', ('nbd', 'overlay'))
def test_file_of_a_snapshot_is_none_to_refuse(name, place):
    privsep._require_workspace_file(os.path.join(place.path, name))

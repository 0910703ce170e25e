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

"""An image in a file: private, sparse, verified, and nothing overwritten."""

import hashlib
import os
import types

import pytest

from nova_snapdriver import exception
from nova_snapdriver.transfer import file as snap_file
from nova_snapdriver.transfer import verify

KIB = 1024
DATA = (b'a' * 4 * KIB + bytes(64 * KIB) + b'b' * 100 + bytes(1000 * KIB))


class Body:
    """An image of some chunks."""

    def __init__(self, image_format='raw', outgrows=0, data=DATA):
        self.image_format = image_format
        self.length = len(data)
        self._data, self._outgrows = data, outgrows

    def prepare(self):
        pass

    def __iter__(self):
        half = len(self._data) // 2
        yield memoryview(self._data)[:half]
        if self._outgrows:
            self._outgrows -= 1
            raise exception.Outgrown(1, reason='larger')
        yield memoryview(self._data)[half:]


def sent(data=DATA):
    return verify.Sent('sha256', len(data), hashlib.sha256(data).hexdigest(),
                       None)


@pytest.fixture
def make(tmp_path):
    def call(name='image', **options):
        made = snap_file.File(str(tmp_path / name), len(DATA), **options)
        made.make()
        return made
    return call


@pytest.mark.parametrize('image_format', ('raw', 'qcow2'))
def test_whole_way(make, tmp_path, image_format):
    image = make()
    assert snap_file.is_partial(image.target)
    with image.held():
        image.upload(Body(image_format, outgrows=2))
        image.verify(sent(), True)
        assert os.listdir(tmp_path) == [os.path.basename(image.target)]
        image.publish()
    path, = tmp_path.iterdir()
    assert path.name == 'image' and path.read_bytes() == DATA
    assert path.stat().st_mode & 0o777 == 0o600
    if image_format == 'raw':
        assert path.stat().st_blocks * 512 < len(DATA) // 2


@pytest.mark.parametrize('make_other', (
    lambda path: path.write_text('mine'), lambda path: path.mkdir(),
    lambda path: path.symlink_to('/nowhere')))
def test_what_is_there_stays(make, tmp_path, make_other):
    make_other(tmp_path / 'image')
    with pytest.raises(exception.UploadFailed, match='there already'):
        make()
    assert len(list(tmp_path.iterdir())) == 1


def test_what_comes_there_meanwhile_stays(make, tmp_path):
    image = make()
    image.upload(Body())
    (tmp_path / 'image').write_text('mine')
    with pytest.raises(exception.UploadFailed):
        image.publish()
    image.discard()
    image.discard()
    assert [path.read_text() for path in tmp_path.iterdir()] == ['mine']


def test_force_replaces_a_link_and_not_what_it_leads_to(make, tmp_path):
    (tmp_path / 'other').write_text('mine')
    (tmp_path / 'image').symlink_to('other')
    image = make(replace=True)
    image.upload(Body())
    image.publish()
    assert (tmp_path / 'other').read_text() == 'mine'
    assert (tmp_path / 'image').read_bytes() == DATA
    assert len(list(tmp_path.iterdir())) == 2


def test_force_replaces_no_directory(make, tmp_path):
    (tmp_path / 'image').mkdir()
    with pytest.raises(exception.UploadFailed, match='is a directory'):
        make(replace=True)


def test_file_that_changed_is_refused(make):
    image = make()
    image.upload(Body())
    with open(image.target, 'r+b') as file:
        file.write(b'x')
    with pytest.raises(exception.VerifyFailed, match='another hash'):
        image.verify(sent(), True)
    with open(image.target, 'ab') as file:
        file.write(b'x')
    with pytest.raises(exception.VerifyFailed, match='bytes'):
        image.verify(sent(), True)


def test_room_is_asked_for_first(make, monkeypatch):
    monkeypatch.setattr(os, 'fstatvfs', lambda file: types.SimpleNamespace(
        f_bavail=1, f_frsize=4096))
    image = make()
    with pytest.raises(exception.UploadFailed, match='has 0 MiB left'):
        image.upload(Body())
    assert os.stat(image.target).st_size == 0


def test_cancelled_file_is_not_published(make):
    image = make()
    image.cancel()
    for call in (lambda: image.upload(Body()), image.publish):
        with pytest.raises(exception.Cancelled):
            call()


def test_directory_that_is_not_there(make):
    with pytest.raises(exception.UploadFailed, match='No such file'):
        make('none/image')

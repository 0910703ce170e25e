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

"""What a snapshot without Nova left is undone without Nova's database."""

import contextlib

import pytest

from nova_snapdriver import journal
from nova_snapdriver.local import cloud as snap_cloud
from nova_snapdriver.local import undo as local_undo
from nova_snapdriver.recovery import undo
from tests.unit import cloud as fake_cloud
from tests.unit import journal_entry


@pytest.fixture
def cloud():
    with fake_cloud.Cloud().seen() as made:
        made.database.away = made.glance.away = True
        yield made


@pytest.fixture
def entries(tmp_path):
    return journal.Journal(str(tmp_path / 'journal'), journal_entry.HOST)


@pytest.fixture
def recover(cloud, entries):
    def call():
        outcome, = local_undo.Recovery(
            undo.Tools(cloud, cloud.launch, cloud.attach, 5)).run(entries)
        return outcome
    return call


@contextlib.contextmanager
def abandoned(entries, target=''):
    with contextlib.closing(entries.begin(journal_entry.ENTRY)) as record:
        if target:
            record.note_target(target)
        yield record


def test_partial_file_is_removed(entries, recover, tmp_path):
    partial = tmp_path / '.snapdriver-0123456789abcdef.part'
    partial.touch()
    with abandoned(entries, str(partial)):
        pass
    outcome = recover()
    assert outcome.done == ('removed %s' % partial,)
    assert not entries and not partial.exists()


@pytest.mark.parametrize('name, make', (
    ('passwd', lambda path: path.touch()),
    ('.snapdriver-0.part', lambda path: path.symlink_to('passwd')),
    ('.snapdriver-0.part', lambda path: path.mkdir())))
def test_anything_else_is_left(name, make, entries, recover, tmp_path):
    make(tmp_path / name)
    with abandoned(entries, str(tmp_path / name)):
        pass
    assert recover().failed
    assert os_lexists(tmp_path / name) and entries


def os_lexists(path):
    return path.is_symlink() or path.exists()


def test_nothing_was_made_yet(entries, recover):
    with abandoned(entries):
        pass
    assert (recover().done, bool(entries)) == ((), False)


def test_guest_is_thawed_without_the_database(entries, recover, cloud):
    with abandoned(entries) as record:
        run = undo.snap_guest._BOOT_ID.read_text().strip()
        record.mark(journal.Mark.FROZEN,
                    '%s %s' % (run, cloud.domain.number))
        cloud.domain.frozen = fake_cloud.OURS
    outcome = recover()
    assert outcome.done == ('thawed the guest',)
    assert not cloud.domain.frozen


def test_image_is_asked_for_with_the_credentials_of_the_environment(
        entries, recover, monkeypatch):
    asked = []
    monkeypatch.setattr(snap_cloud, 'delete_unfinished',
                        lambda image, arrived: asked.append(image) or True)
    with abandoned(entries, snap_cloud.TARGET):
        pass
    assert recover().done == ('deleted image %s' % journal_entry.ENTRY.image,)
    assert asked == [journal_entry.ENTRY.image] and not entries

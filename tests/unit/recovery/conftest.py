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

"""An abandoned snapshot in a real journal, and a cloud that is a fake."""

import contextlib
import dataclasses
from unittest import mock

import pytest

from nova_snapdriver.capture import workspace
from nova_snapdriver import journal
from nova_snapdriver.recovery import undo
from tests.unit import cloud as fake_cloud
from tests.unit import journal_entry
from tests.unit.recovery import abandoned


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
        outcome, = undo.Recovery(abandoned.tools(cloud),
                                 dry_run).run(entries)
        assert abandoned.kept(entries) == bool(outcome.failed or dry_run)
        return outcome
    return call

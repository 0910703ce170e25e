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

"""What "nova-snapdriver recover" says of what it did, and its exit status."""

import argparse
import contextlib
import dataclasses
import json
import types
from unittest import mock

from nova.objects import base as objects_base
import pytest

from nova_snapdriver.cmd import conffiles
from nova_snapdriver.cmd import recover
from nova_snapdriver import conf
from nova_snapdriver import exception
from nova_snapdriver import journal
from nova_snapdriver.recovery import undo
from tests.unit import cloud as fake_cloud
from tests.unit import journal_entry

ENTRY = journal_entry.ENTRY
conf.register_opts(conffiles.CONF)


@pytest.fixture
def cloud():
    with (fake_cloud.Cloud().seen() as made,
          mock.patch.object(undo, '_AGENT_SECONDS', 0)):
        yield made


@pytest.fixture
def entries(tmp_path):
    return journal.Journal(str(tmp_path / 'journal'), journal_entry.HOST)


@pytest.fixture
def recovered(cloud, entries, capsys, monkeypatch, tmp_path):
    """Run the command; give its status and both outputs."""
    monkeypatch.setattr(objects_base.NovaObject, 'indirection_api', None)
    monkeypatch.setattr(recover, '_Host', lambda: cloud)
    monkeypatch.setattr(conffiles, 'load', lambda args: entries)

    def call(dry_run=False, json=False):
        status = recover.run(argparse.Namespace(
            dry_run=dry_run, json=json, connect='test:///default',
            journal_directory=str(tmp_path / 'local')))
        return status, *capsys.readouterr()
    return call


def abandon(entries, *marks, **changes):
    entry = dataclasses.replace(
        ENTRY, workspace=str(entries._directory / 'snapdriver-01234567'),
        **changes)
    with contextlib.closing(entries.begin(entry)) as record:
        for mark in marks:
            record.mark(mark)


def test_nothing(recovered):
    assert recovered() == (0, 'no snapshot was abandoned\n', '')


def test_what_was_done_is_told(recovered, entries, cloud):
    abandon(entries)
    cloud.glance.add(ENTRY.image)
    status, out, err = recovered()
    assert (status, err) == (0, '')
    assert 'image %s of instance %s' % (ENTRY.image, ENTRY.instance) in out
    assert '  done: deleted image' in out
    assert recovered()[1] == 'no snapshot was abandoned\n'


def test_what_failed_is_told_and_is_status_1(recovered, entries, cloud):
    abandon(entries)
    cloud.glance.add(ENTRY.image)
    cloud.glance.away = True
    status, out, _ = recovered()
    assert status == 1
    assert '  FAILED: ' in out and 'is left' in out
    cloud.glance.away = False
    assert recovered()[0] == 0


def test_dry_run_says_what_is_to_do(recovered, entries, cloud):
    abandon(entries)
    cloud.glance.add(ENTRY.image)
    for _ in range(2):
        status, out, _ = recovered(dry_run=True)
        assert status == 0
        assert '  to do: would delete image' in out
    assert cloud.glance.images


def test_json(recovered, entries, cloud):
    assert recovered(json=True) == (0, '[]\n', '')
    abandon(entries)
    cloud.glance.add(ENTRY.image)
    status, out, _ = recovered(json=True)
    found, = json.loads(out)
    assert status == 0
    assert (found['instance'], found['image'], found['failed']) == (
        ENTRY.instance, ENTRY.image, [])
    assert 'deleted image %s' % ENTRY.image in found['done']


def test_entry_that_is_not_for_us_is_told_and_never_undone(recovered, entries,
                                                           cloud):
    abandon(entries, journal.Mark.SUSPENDED, host='compute-2')
    cloud.domain.save(fake_cloud.OURS)
    cloud.glance.add(ENTRY.image)
    status, out, err = recovered()
    assert status == 1
    assert 'run "nova-snapdriver recover" there' in err
    assert cloud.domain.number is None and cloud.glance.images


def test_others_are_undone_beside_it(recovered, entries, cloud):
    abandon(entries, host='compute-2')
    abandon(entries)
    cloud.glance.add(ENTRY.image)
    status, out, _ = recovered()
    assert status == 1
    assert '  done: deleted image' in out


def test_nova_conductor_that_is_away_starts_no_guest(recovered, entries,
                                                     cloud):
    abandon(entries, journal.Mark.SUSPENDED)
    cloud.domain.save(fake_cloud.OURS)
    cloud.database.away = True
    status, out, _ = recovered()
    assert status == 1
    assert cloud.domain.number is None


# Starting a guest by hand


def instance(numa=None, pci=None):
    return types.SimpleNamespace(numa_topology=numa, pci_devices=pci)


@pytest.mark.parametrize('give, found, words', (
    (recover._launch, instance(), None),
    (recover._launch, instance(numa=object()), 'CPUs of its own'),
    (recover._attach, instance(), None),
    (recover._attach, instance(pci=mock.Mock(objects=[])), None),
    (recover._attach, instance(pci=mock.Mock(objects=[1])), 'PCI devices')))
def test_what_only_nova_compute_can_give_back_is_told(give, found, words):
    guest = mock.Mock()
    with mock.patch('nova.objects.Instance.get_by_uuid', return_value=found):
        left = give('server', guest)
    assert guest.start.called == (give == recover._launch)
    assert bool(left) == bool(words)
    if words:
        assert words in left[0]
        assert 'openstack server reboot --hard server' in left[0]


def test_guest_is_not_started_before_the_database_answers():
    guest = mock.Mock()
    with (mock.patch('nova.objects.Instance.get_by_uuid',
                     side_effect=exception.ServerBusy(reason='away')),
          pytest.raises(exception.ServerBusy)):
        recover._launch('server', guest)
    guest.start.assert_not_called()


# Nova's conductor


@pytest.fixture
def conductor():
    """A conductor's API, behind the one with a limit."""
    api = mock.Mock()

    def connect(configuration):
        assert recover.rpc.TRANSPORT is None
        recover.rpc.TRANSPORT = configuration

    with (mock.patch.object(recover.conductor_rpcapi, 'ConductorAPI',
                            return_value=api),
          mock.patch.object(recover.rpc, 'TRANSPORT', None),
          mock.patch.object(recover.rpc, 'init', connect),
          mock.patch.object(recover, '_ANSWER_SECONDS', 0.2)):
        yield api


def test_conductor_answers(conductor):
    conductor.object_action.return_value = 'found'
    asked = recover._Conductor()
    assert asked.object_action(1, two=2) == 'found'
    assert asked.object_action(1, two=2) == 'found'
    conductor.object_action.assert_called_with(1, two=2)


def test_error_of_the_conductor_is_raised(conductor):
    conductor.object_action.side_effect = KeyError('no')
    with pytest.raises(KeyError):
        recover._Conductor().object_action()


def test_conductor_that_does_not_answer_is_waited_for_once(conductor):
    waits = []
    conductor.object_action.side_effect = lambda: waits.append(
        recover.threading.Event().wait(2))
    asked = recover._Conductor()
    for _ in range(3):
        with pytest.raises(exception.ServerBusy, match='nova-conductor'):
            asked.object_action()
    assert conductor.object_action.call_count == 1

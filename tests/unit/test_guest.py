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

"""A domain whose libvirtd restarts."""

from unittest import mock

import libvirt
from nova import exception as nova_exception
from nova.virt.libvirt import guest as nova_guest
import pytest

from nova_snapdriver import exception
from nova_snapdriver import guest as snap_guest
from tests.unit import cloud as fake_cloud


@pytest.fixture(autouse=True)
def no_pauses():
    with mock.patch('time.sleep'):
        yield


def broken():
    error = libvirt.libvirtError('Cannot recv data')
    error.err = (libvirt.VIR_ERR_SYSTEM_ERROR, libvirt.VIR_FROM_RPC)
    return error


def domain(**results):
    found = mock.create_autospec(libvirt.virDomain, instance=True)
    for name, result in results.items():
        getattr(found, name).side_effect = [result]
    return nova_guest.Guest(found)


def guest(find):
    return snap_guest.Guest(domain(isActive=broken(), state=broken()),
                            mock.Mock(uuid='server'), find)


def test_domain_is_looked_up_until_libvirtd_answers():
    find = mock.Mock(side_effect=[
        nova_exception.HypervisorUnavailable(), broken(), domain(isActive=1)])
    assert guest(find).exists()
    assert find.call_count == 3


def test_libvirtd_that_does_not_come_back_is_an_error():
    find = mock.Mock(side_effect=nova_exception.HypervisorUnavailable())
    with (mock.patch.object(snap_guest, '_RETURN_SECONDS', 0),
          pytest.raises(exception.CaptureFailed, match='Cannot recv data')):
        guest(find).stopped_by_io_error()


def test_domain_that_is_gone_is_not_waited_for():
    find = mock.Mock(side_effect=nova_exception.InstanceNotFound(
        instance_id='server'))
    one = snap_guest.Guest(domain(isActive=broken()), mock.Mock(), find)
    one._domain.isActive.side_effect = [broken(), broken()]
    with pytest.raises(exception.CaptureFailed, match='Cannot recv data'):
        one.exists()                    # libvirt does not say that it is not
    find.assert_called_once_with()


# What a fake domain answers


@pytest.fixture
def fake():
    return fake_cloud.Cloud().domain


@pytest.fixture
def one(fake):
    return snap_guest.Guest(nova_guest.Guest(fake), mock.Mock(uuid='server'))


def test_one_run_is_told_from_another(one, fake):
    first = one.run_id()
    assert one.run_id() == first
    fake.boot()
    second = one.run_id()
    fake.stop()
    assert len({first, second, one.run_id()}) == 3


def test_one_boot_of_the_host_is_told_from_another(one, tmp_path):
    """libvirt's numbers begin anew with each."""
    found = set()
    for text in ('first\n', 'second\n'):
        (tmp_path / 'boot').write_text(text)
        with mock.patch.object(snap_guest, '_BOOT_ID', tmp_path / 'boot'):
            found.add(one.run_id())
    assert found == {'first 1', 'second 1'}


def test_thaw_tells_how_many_were_frozen(one, fake):
    fake.settled = False
    assert one.thaw() == 0
    fake.frozen = fake_cloud.OURS
    assert one.thaw() == 1


def test_answer_that_was_lost_with_libvirtd_is_no_count(fake):
    fake.settled = False
    thaw = mock.Mock(side_effect=broken())
    lost = mock.Mock(_domain=mock.Mock(fsThaw=thaw))
    again = snap_guest.Guest(lost, mock.Mock(),
                             lambda: nova_guest.Guest(fake))
    assert again.thaw() is None


@pytest.mark.parametrize('text', (
    "internal error: unable to execute QEMU agent command "
    "'guest-fsfreeze-thaw': Command guest-fsfreeze-thaw has been disabled",
    "The command guest-fsfreeze-freeze has not been found",
    "Command guest-fsfreeze-freeze has been disabled: the agent is in frozen "
    "state", "CommandNotFound", "this feature or command is not supported"))
def test_freeze_that_is_switched_off(text, one, fake):
    error = fake_cloud.libvirt_error(text=text)
    for name, call in (('fsFreeze', one.freeze), ('fsThaw', one.thaw)):
        with (mock.patch.object(fake, name, side_effect=error),
              pytest.raises(snap_guest.FreezeUnsupported)):
            call()


def test_agent_that_does_not_answer_is_not_switched_off(one, fake):
    error = fake_cloud.libvirt_error(text='guest agent is not responding')
    with (mock.patch.object(fake, 'fsThaw', side_effect=error),
          pytest.raises(snap_guest.AgentError) as caught):
        one.thaw()
    assert type(caught.value) is snap_guest.AgentError


def test_guest_that_has_stopped_has_no_agent(one, fake):
    fake.stop()
    with pytest.raises(snap_guest.GuestGone):
        one.thaw()


@pytest.mark.parametrize('changes, refusal', (
    ({}, None), ({'agent': 'disconnected'}, 'no agent runs'),
    ({'paused': 'user'}, 'does not run'), ({'number': None}, 'does not run')))
def test_why_the_agent_cannot_be_used(changes, refusal, one, fake):
    vars(fake).update(changes)
    found = one.agent_refusal()
    assert found == refusal or refusal in found


def test_block_job_of_a_disk(one, fake):
    disk = mock.Mock(target='vda')
    assert not one.has_block_job(disk)
    fake.copy = '/overlay'
    assert one.has_block_job(disk)
    assert not one.has_block_job(None)
    fake.stop()
    assert not one.has_block_job(disk)


@pytest.mark.parametrize('paused, expected', (
    (None, False), ('user', False), ('io', True)))
def test_guest_that_qemu_has_paused(paused, expected, one, fake):
    fake.paused = paused
    assert one.stopped_by_io_error() == expected


def test_save_that_runs(one, fake):
    assert not one.is_being_saved()
    fake.saving = True
    assert one.is_being_saved()
    fake.save(fake_cloud.OURS)
    assert not one.is_being_saved()
    assert one.is_saved()


def test_backup_job_is_known_by_its_socket(one, fake):
    assert one.backup_socket() is None
    fake.backup = '/nbd'
    assert one.backup_socket() == '/nbd'
    fake.defined = False
    assert one.backup_socket() is None

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

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

"""The line of figures of a snapshot, of a real libvirt."""

from unittest import mock

from nova.virt.libvirt import driver as nova_driver
import pytest

from nova_snapdriver import exception
from tests.functional import disks
from tests.functional import snapshots


@pytest.fixture
def guest(area, start_domain):
    return start_domain(disks.make_qcow2(area, None))


@pytest.fixture
def taken(snap_driver, guest, caplog):
    """Takes a snapshot; gives the figures of its one line."""
    caplog.set_level('INFO')

    def call():
        with mock.patch('time.sleep'):
            snapshots.Snapshot(snap_driver, guest).take()
        return figures(caplog)

    return call


def figures(caplog):
    record, = (record for record in caplog.records
               if record.name == 'nova_snapdriver.metrics')
    words = record.getMessage().split()
    return dict(word.split('=', 1) for word in words[2:])


def seconds(found, *phases):
    return [float(found[f'{phase}_seconds']) for phase in phases]


def test_live_snapshot(taken, glance):
    found = taken()
    assert found['result'] == 'success'
    assert (found['path'], found['destination'], found['consistency']) == (
        'live', 'glance', 'crash')
    assert int(found['bytes_sent']) == len(glance.data)
    assert 0 < int(found['bytes_read']) <= len(glance.data)
    assert int(found['scratch_peak_bytes']) > 0
    assert found['retries'] == '0'
    assert min(seconds(found, 'capture', 'layout', 'upload')) > 0


def test_upload_that_is_begun_again(taken, glance):
    glance.faults = [503]
    found = taken()
    assert (found['result'], found['retries']) == ('success', '1')
    assert int(found['bytes_sent']) > len(glance.data)


def test_upload_that_fails(taken, glance, caplog):
    glance.faults = [409]
    with pytest.raises(exception.UploadFailed):
        taken()
    found = figures(caplog)
    assert (found['result'], found['error'], found['phase']) == (
        'failure', 'UploadFailed', 'upload')
    assert (found['path'], found['consistency']) == ('live', 'crash')


def test_quiesce_that_fails(snap_driver, guest, glance, caplog):
    caplog.set_level('INFO')
    with pytest.raises(exception.QuiesceFailed):
        snapshots.Snapshot(snap_driver, guest, hw_qemu_guest_agent='yes',
                           os_require_quiesce='yes').take()
    found = figures(caplog)
    assert (found['result'], found['phase']) == ('failure', 'capture')
    assert found['bytes_sent'] == '0'


def test_stopped_server(taken, guest, glance):
    guest.domain.destroy()
    found = taken()
    assert (found['path'], found['consistency']) == ('cold', 'offline')
    guest.domain.create()


def test_novas_own_snapshot(taken, conf, glance):
    conf('snapshot_image_format', 'vmdk', 'libvirt')
    with mock.patch.object(nova_driver.LibvirtDriver, 'snapshot'):
        found = taken()
    assert (found['result'], found['path']) == ('success', 'stock')
    assert found['consistency'] == '-'

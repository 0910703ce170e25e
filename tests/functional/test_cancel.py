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

"""What ends an upload that Glance is stuck in, and as what."""

import contextlib
import threading
import time
from unittest import mock

from nova import exception as nova_exception
from nova.virt.libvirt import driver as nova_driver
import pytest

from nova_snapdriver import exception
from tests.functional import snapshots

# What is promised, on a machine that does something else as well: Glance is
# asked every 15 s whether it still has the image.
PROMISED_SECONDS = 15
SLACK_SECONDS = 10


@pytest.fixture
def guest(area, start_domain):
    """One whose image does not fit into the buffers of a socket."""
    disk = area / 'disk.raw'
    disk.write_bytes(b'snapdriver' * (4 << 20))
    return start_domain((disk, 'raw'))


class Taking:
    """A snapshot in a thread, up to where Glance is stuck."""

    def __init__(self, snapshot, glance):
        self.error = None
        self.ended = None
        self._snapshot = snapshot
        self._thread = threading.Thread(target=self._take, daemon=True)
        self._thread.start()
        assert glance.stuck.wait(120)

    def _take(self):
        try:
            self._snapshot.take()
        except Exception as ex:
            self.error = ex
        self.ended = time.monotonic()

    @contextlib.contextmanager
    def ends_as(self, expected, words=''):
        """In time, because of what happens in the block."""
        since = time.monotonic()
        yield
        self._thread.join(120)
        assert type(self.error) is expected, self.error
        assert words in str(self.error)
        seconds = self.ended - since
        assert seconds < PROMISED_SECONDS + SLACK_SECONDS
        print('ended after %.1f s' % seconds)


@pytest.fixture(params=('stall', 'mute'))
def taking(request, snap_driver, glance, guest):
    glance.faults = [request.param]
    return Taking(snapshots.Snapshot(snap_driver, guest), glance)


def test_image_deleted(taking, glance, guest, area):
    with taking.ends_as(nova_exception.ImageNotFound):
        glance.deleted = True
    assert len(glance.headers) == 1     # it was not tried again
    snapshots.assert_clean(guest, area)


def test_nova_compute_stopped(taking, snap_driver, glance, guest, area):
    with (mock.patch.object(nova_driver.LibvirtDriver, 'cleanup_host'),
          taking.ends_as(exception.Cancelled, 'nova-compute was stopped')):
        snap_driver.cleanup_host('host')
    assert glance.deleted
    assert len(glance.headers) == 1
    snapshots.assert_clean(guest, area)


def test_server_deleted(taking, glance, guest, area, server):
    xml = guest.domain.XMLDesc(0)
    with taking.ends_as(nova_exception.InstanceNotFound):
        server.task_state = 'deleting'
        guest.domain.destroy()
        guest.domain.undefine()
    assert glance.deleted
    guest.domain.connect().defineXML(xml)
    guest.domain.create()
    snapshots.assert_clean(guest, area)


def test_server_stopped(taking, glance, guest, area):
    with taking.ends_as(exception.Cancelled, 'the server was stopped'):
        guest.domain.destroy()
    assert glance.deleted
    guest.domain.create()
    snapshots.assert_clean(guest, area)


def test_server_restarted(taking, glance, guest, area):
    with taking.ends_as(exception.Cancelled):
        guest.domain.destroy()
        guest.domain.create()
    assert glance.deleted
    snapshots.assert_clean(guest, area)


def test_nobody_asks_for_an_end(snap_driver, glance, guest, area):
    """A look that gets no answer is no cause."""
    glance.faults = ['stall']
    broken = mock.Mock(side_effect=ZeroDivisionError)
    with (mock.patch('nova_snapdriver.transfer.image.Image.deleted', broken),
          mock.patch('nova_snapdriver.guest.Guest.backup_socket', broken),
          mock.patch('nova_snapdriver.database.is_deleted', broken)):
        taking = Taking(snapshots.Snapshot(snap_driver, guest), glance)
        time.sleep(5)
        assert broken.call_count > 1
        assert taking.error is None
    with taking.ends_as(nova_exception.ImageNotFound):
        glance.deleted = True
    snapshots.assert_clean(guest, area)

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

"""Real libvirt, real QEMU, real qemu-nbd; only Glance has a stand-in."""

import contextlib
import os
import pathlib
import shutil
import tempfile
import types
from unittest import mock

import nova.conf
from nova import objects
import nova.privsep
import pytest

from nova_snapdriver import database
from nova_snapdriver import driver
from nova_snapdriver.transfer import hashes
from tests import functional
from tests.functional import domains
from tests.functional import fake_glance
from tests.functional import snapshots

CONF = nova.conf.CONF


@pytest.fixture(autouse=True)
def nothing_learned(monkeypatch):
    """What one test has verified is nothing that another one knows."""
    monkeypatch.setattr(hashes, '_learned', None)


@pytest.fixture(scope='session', autouse=True)
def privileged_in_process():
    """Calls through privsep run here: the tests are root already."""
    if os.geteuid() == 0:
        nova.privsep.sys_admin_pctxt.set_client_mode(False)


@pytest.fixture(scope='session')
def event_loop():
    """Libvirt's event loop, which nova-compute has by itself.

    For connections that are opened later.
    """
    libvirt = pytest.importorskip(
        'libvirt', reason='libvirt-python is not installed')
    libvirt.virEventRegisterDefaultImpl()
    # Something that comes soon, or the loop would not look whether to end.
    timer = libvirt.virEventAddTimeout(200, lambda *args: None, None)
    ended = functional.native_threading.Event()

    def turn():
        while not ended.is_set():
            libvirt.virEventRunDefaultImpl()

    thread = functional.native_threading.Thread(target=turn, daemon=True)
    thread.start()
    yield
    ended.set()
    thread.join()
    libvirt.virEventRemoveTimeout(timer)


@pytest.fixture(scope='session')
def connection():
    """A connection to the system's libvirtd."""
    with connected() as opened:
        yield opened


@pytest.fixture(scope='session')
def connection_with_events(event_loop):
    """One that was opened later than the loop, which it has events from."""
    with connected() as opened:
        yield opened


@contextlib.contextmanager
def connected():
    libvirt = pytest.importorskip(
        'libvirt', reason='libvirt-python is not installed')
    try:
        opened = libvirt.open('qemu:///system')
    except libvirt.libvirtError as ex:
        pytest.skip('needs a running libvirtd: %s' % ex)
    yield opened
    opened.close()


@pytest.fixture
def area():
    """A directory that QEMU's user can reach, gone after the test."""
    path = pathlib.Path(tempfile.mkdtemp(prefix='snapdriver-test-',
                                         dir='/var/tmp'))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def loop_device():
    """Attaches files to loop devices, and detaches them after the test."""
    if os.geteuid() != 0:
        pytest.skip('a loop device needs root')
    with domains.LoopDevices() as devices:
        yield devices.attach


@pytest.fixture
def start_domain(connection):
    """Starts persistent domains, and removes them after the test."""
    with domains.Domains(connection) as started:
        yield started.start


@pytest.fixture
def conf(area):
    """Set options for one test."""
    changed = []

    def override(name, value, group=None):
        CONF.set_override(name, value, group)
        changed.append((name, group))

    CONF([], project='nova', default_config_files=[])
    override('virt_type', 'qemu', 'libvirt')
    override('snapshots_directory', str(area / 'snapshots'), 'libvirt')
    override('num_retries', 1, 'glance')
    override('journal_directory', str(area / 'journal'), 'snapdriver')
    yield override
    for name, group in changed:
        CONF.clear_override(name, group)


@pytest.fixture(autouse=True)
def server():
    """The server, as Nova's database has it."""
    found = types.SimpleNamespace(task_state=None, vm_state='active',
                                  host='host', progress=0)
    with mock.patch.object(database, 'find', return_value=found):
        yield found


@pytest.fixture
def glance(conf):
    with fake_glance.FakeGlance(snapshots.IMAGE_ID) as server:
        conf('api_servers', [server.url], 'glance')
        yield server


@pytest.fixture
def snap_driver(conf, connection):
    objects.register_all()
    # Its host is not initialized: that starts threads which wait for events
    # and never end, and the tests would not end either.
    return driver.SnapDriver(mock.Mock())

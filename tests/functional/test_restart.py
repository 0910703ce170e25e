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

"""A libvirtd that is killed in the middle of a snapshot, and comes back."""

import os
import shutil
import subprocess
import time
import types

import libvirt
from nova.virt.libvirt import guest as nova_guest
import pytest

from nova_snapdriver.capture import live
from nova_snapdriver import guest as snap_guest
from tests.functional import captures
from tests.functional import disks
from tests.functional import domains
from tests.functional import images

START_SECONDS = 30
NOBODY = 65534


class Libvirtd:
    """A libvirtd of the test's own, of a user without privileges.

    The system's one serves other tests, too.
    """

    def __init__(self, area):
        self._area = area
        self._process = None
        self.uri = 'qemu+unix:///session?socket=%s' % (
            area / 'run/libvirt/libvirt-sock')

    def __enter__(self):
        for name in ('run', 'home'):
            (self._area / name).mkdir(mode=0o700)
            os.chown(self._area / name, NOBODY, NOBODY)
        self.start()
        return self

    def __exit__(self, *exc):
        self.kill()

    def start(self):
        self._process = subprocess.Popen(
            ['libvirtd', '--timeout', '120'], cwd='/', user=NOBODY,
            group=NOBODY, extra_groups=[], stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, env={
                'PATH': os.environ['PATH'], 'HOME': str(self._area / 'home'),
                'XDG_RUNTIME_DIR': str(self._area / 'run'),
                'XDG_CONFIG_HOME': str(self._area / 'home'),
                'XDG_CACHE_HOME': str(self._area / 'home')})

    def kill(self):
        self._process.kill()
        self._process.wait()

    def connect(self):
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                return libvirt.open(self.uri)
            except libvirt.libvirtError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.2)


@pytest.fixture
def libvirtd(area):
    if os.geteuid() != 0 or not shutil.which('libvirtd'):
        pytest.skip('needs root and a libvirtd')
    # For its QEMU's disk, and as /tmp is: what others make stays theirs.
    area.chmod(0o1777)
    with Libvirtd(area) as daemon:
        yield daemon


@pytest.fixture
def domain(area, libvirtd):
    path, _ = disks.make_qcow2(area, None)
    path.chmod(0o666)
    with domains.Domains(libvirtd.connect()) as started:
        yield started.start((path, 'qcow2')).domain
        # The connection that it was started on may be gone.
        started.forget()
        found = libvirtd.connect().listAllDomains()
        for left in found:
            if left.isActive():
                left.destroy()
            left.undefine()


def wrapped(libvirtd, domain):
    uuid = domain.UUIDString()

    def find():
        return nova_guest.Guest(
            libvirt.open(libvirtd.uri).lookupByUUIDString(uuid))

    guest = snap_guest.Guest(nova_guest.Guest(domain),
                             types.SimpleNamespace(uuid=uuid), find)
    # This libvirtd sets no owner, and is not of the test's own user.
    guest.qemu_owner = lambda: (NOBODY, NOBODY)
    return guest


def test_libvirtd_restarted_while_the_image_is_read(area, libvirtd, domain):
    guest = wrapped(libvirtd, domain)
    with live.capture(captures.request_of(guest, area)) as captured:
        libvirtd.kill()
        image = area / 'image'
        images.stream(captured.export, image, 'raw')
        assert image.stat().st_size == disks.ODD_SIZE
        libvirtd.start()
    found = libvirtd.connect().lookupByUUIDString(domain.UUIDString())
    domains.Guest(found).assert_untouched()
    assert sorted(area.glob('snapdriver-*')) == []


def test_libvirtd_that_stays_away_is_an_error(area, libvirtd, domain,
                                              monkeypatch):
    monkeypatch.setattr(snap_guest, '_RETURN_SECONDS', 1)
    guest = wrapped(libvirtd, domain)
    libvirtd.kill()
    with pytest.raises(live.exception.CaptureFailed):
        guest.has_job()
    libvirtd.start()
    libvirtd.connect().close()
    assert guest.has_job() is False

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

"""The export of a disk by qemu-nbd: what it shows, and whom it keeps out."""

import os
import pathlib
import signal
import stat
import subprocess
import sys
import time

import nova.conf
import pytest

from nova_snapdriver.capture import privsep
from nova_snapdriver.capture import server
from nova_snapdriver.capture import workspace
from nova_snapdriver import exception
from nova_snapdriver import imagebackend
from tests.functional import disks
from tests.functional import domains
from tests.functional import images

CONF = nova.conf.CONF


@pytest.fixture(params=('itself', 'root'))
def reader(request, monkeypatch, area):
    """Who reads the disk: nova-compute, or its privileged process."""
    if request.param == 'root':
        monkeypatch.setattr(server, 'may_read', lambda chain: False)
    CONF.set_override('instances_path', str(area))
    yield
    CONF.clear_override('instances_path')


def chain_of(path, disk_format, base=None):
    kind = 'block' if str(path).startswith('/dev/') else 'file'
    top = imagebackend.Source(kind, disk_format, str(path))
    if base is None:
        return (top,)
    return top, imagebackend.Source('file', 'raw', str(base))


def chain_made(make, area, loop_device):
    path, disk_format = make(area, loop_device)
    base = area / 'disk.raw' if make is disks.make_overlay else None
    return path, disk_format, chain_of(path, disk_format, base)


def server_pids(socket):
    """The processes that serve a socket."""
    return [pid for pid in map(int, filter(str.isdecimal, os.listdir('/proc')))
            if serves(pid, socket)]


def serves(pid, socket):
    try:
        words = pathlib.Path('/proc', str(pid), 'cmdline').read_bytes().split(
            b'\0')
    except OSError:
        return False
    return (os.path.basename(words[0]) == b'qemu-nbd' and
            os.fsencode(socket) in words)


@pytest.mark.parametrize('make', disks.MAKERS)
def test_shows_the_disk_again_and_again(make, reader, area, loop_device):
    path, disk_format, chain = chain_made(make, area, loop_device)
    place = workspace.locate(str(area))
    with workspace.private(place, None, print):
        with server.serve(place, chain, 'vda') as exported:
            info = os.stat(place.socket)
            assert stat.S_IMODE(info.st_mode) & 0o077 == 0
            for name in ('one', 'two'):
                images.stream(exported, area / name, 'qcow2')
                domains.run('qemu-img', 'compare', '-f', 'qcow2', '-F',
                            disk_format, '-U', area / name, path)
        assert server_pids(place.socket) == []


def test_header_of_the_image_decides_nothing(area):
    """The guest wrote a qcow2 header onto its raw disk."""
    secret = area / 'secret'
    secret.write_bytes(b'canary' * 1000)
    disk = area / 'disk'
    domains.run('qemu-img', 'create', '-f', 'qcow2', '-F', 'raw', '-b', secret,
                disk, '1M')
    place = workspace.locate(str(area))
    with workspace.private(place, None, print):
        with server.serve(place, chain_of(disk, 'raw'), 'vda') as exported:
            images.stream(exported, area / 'image', 'raw')
    image = (area / 'image').read_bytes()
    # QEMU rounds up to sectors.
    assert image.rstrip(b'\0') == disk.read_bytes().rstrip(b'\0')
    assert b'canary' not in image


@pytest.mark.parametrize('make', disks.FILE_MAKERS)
def test_writer_is_kept_out(make, reader, area, start_domain):
    path, disk_format, chain = chain_made(make, area, None)
    guest = start_domain((path, disk_format))
    guest.domain.destroy()
    place = workspace.locate(str(area))
    with workspace.private(place, None, print):
        with server.serve(place, chain, 'vda'):
            with pytest.raises(subprocess.CalledProcessError) as refused:
                # Not by libvirt: it does not always say what QEMU has said.
                domains.run('qemu-io', '-f', disk_format, '-c', 'write 0 512',
                            path)
            assert 'Failed to get "write" lock' in refused.value.stderr
    guest.domain.create()
    guest.assert_untouched()


@pytest.mark.parametrize('make', disks.FILE_MAKERS)
def test_refused_where_a_guest_writes(make, reader, area, start_domain):
    path, disk_format, chain = chain_made(make, area, None)
    guest = start_domain((path, disk_format))
    place = workspace.locate(str(area))
    with workspace.private(place, None, print):
        with pytest.raises(exception.CaptureFailed, match='lock'):
            with server.serve(place, chain, 'vda'):
                pass
        assert server_pids(place.socket) == []
    guest.assert_untouched()


def test_others_may_read_the_base(area, start_domain):
    """Two servers of one image: one runs, the other is captured."""
    path, _, chain = chain_made(disks.make_overlay, area, None)
    other = area / 'other.qcow2'
    domains.run('qemu-img', 'create', '-f', 'qcow2', '-F', 'raw', '-b',
                chain[1].path, other)
    guest = start_domain((other, 'qcow2'))
    place = workspace.locate(str(area))
    with workspace.private(place, None, print):
        with server.serve(place, chain, 'vda') as exported:
            images.stream(exported, area / 'image', 'qcow2')
    guest.assert_untouched()


def test_callers_error_is_not_hidden(reader, area):
    chain = chain_of(*disks.make_raw(area, None))
    place = workspace.locate(str(area))
    with workspace.private(place, None, print):
        with pytest.raises(ZeroDivisionError):
            with server.serve(place, chain, 'vda'):
                raise ZeroDivisionError
        assert server_pids(place.socket) == []


def test_disk_that_is_not_there(reader, area):
    place = workspace.locate(str(area))
    with workspace.private(place, None, print):
        with pytest.raises(exception.CaptureFailed, match='No such file'):
            with server.serve(place, chain_of(area / 'gone', 'raw'), 'vda'):
                pass


def test_limits_and_a_clean_environment(area, monkeypatch):
    monkeypatch.setenv('OS_PASSWORD', 'secret')
    chain = chain_of(*disks.make_raw(area, None))
    place = workspace.locate(str(area))
    with workspace.private(place, None, print):
        with server.serve(place, chain, 'vda'):
            pid, = server_pids(place.socket)
            about = pathlib.Path('/proc/%d' % pid)
            limits = (about / 'limits').read_text()
            assert 'Max address space         4294967296' in limits
            assert 'Max core file size        0' in limits
            assert b'OS_PASSWORD' not in (about / 'environ').read_bytes()


SCRIPT = """
import sys, time
import nova.privsep
nova.privsep.sys_admin_pctxt.set_client_mode(False)
from nova_snapdriver.capture import server, workspace
from nova_snapdriver.capture import privsep
from nova_snapdriver import imagebackend
place = workspace.locate(sys.argv[1])
with workspace.private(place, None, print):
    with server.serve(place, (imagebackend.Source(
            'file', 'raw', sys.argv[2]),), 'vda'):
        print(place.socket, flush=True)
        time.sleep(600)
"""


def test_dies_with_nova_compute(area):
    path, _ = disks.make_raw(area, None)
    parent = subprocess.Popen([sys.executable, '-c', SCRIPT, area, path],
                              stdout=subprocess.PIPE, text=True)
    socket = parent.stdout.readline().strip()
    assert len(server_pids(socket)) == 1
    parent.send_signal(signal.SIGKILL)
    parent.communicate()
    deadline = time.monotonic() + 60
    while server_pids(socket):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize('kind', ('file', 'block'))
def test_root_reads_disks_only(kind, area, tmp_path):
    """Whoever speaks to the privileged process cannot have any file read."""
    secret = tmp_path / 'secret'
    secret.write_bytes(bytes(1 << 20))
    (area / 'disk').symlink_to(secret)
    CONF.set_override('instances_path', str(area))
    place = workspace.locate(str(area))
    try:
        with workspace.private(place, None, print):
            with pytest.raises(exception.DiskUnusable, match='read as root'):
                privsep.start_server(
                    place.socket, [(kind, 'raw', str(area / 'disk'))], 'vda')
    finally:
        CONF.clear_override('instances_path')


def test_root_makes_no_socket_anywhere_else(area):
    path, _ = disks.make_raw(area, None)
    with pytest.raises(exception.DiskUnusable, match='no socket'):
        privsep.start_server(str(area / 'nbd'), [('file', 'raw', str(path))],
                             'vda')

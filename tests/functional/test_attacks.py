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

"""What a hostile guest or a local user tries, on the real driver.

Source: OpenStack's security advisories, named at each attack.
"""

import logging
import os
import pathlib
import subprocess
import time
from unittest import mock

import pytest

from lab import luks
from nova_snapdriver import exception
from tests.functional import disks
from tests.functional import domains
from tests.functional import snapshots

CANARY = b'a secret of the host, which no image may have'
DISK_SIZE = 8 * 1024 * 1024
NOBODY = 65534
TOKEN = 'f1d0token-that-nobody-may-see'


@pytest.fixture
def canary(area):
    """A file of the host's, as large as a disk."""
    path = area / 'canary'
    path.write_bytes(CANARY * 1024)
    os.truncate(path, DISK_SIZE)
    return path


def qcow2_with_backing_file(canary, path):
    """OSSA-2016-001, OSSA-2024-002."""
    domains.run('qemu-img', 'create', '-f', 'qcow2', '-F', 'raw', '-b',
                canary, path)


def qcow2_with_json_backing_name(canary, path):
    """OSSA-2024-001."""
    domains.run('qemu-img', 'create', '-f', 'qcow2', '-u', '-F', 'raw', '-b',
                'json:{"driver":"file","filename":"%s"}' % canary, path,
                DISK_SIZE)


def qcow2_with_data_file(canary, path):
    """OSSA-2024-001."""
    # Made beside a copy: with the option, qemu-img empties the data file.
    domains.run('qemu-img', 'create', '-f', 'qcow2', '-o',
                'data_file=%s,data_file_raw=on' % path.with_name('canarx'),
                path, DISK_SIZE)
    header = path.read_bytes()
    assert b'canarx' in header
    path.write_bytes(header.replace(b'canarx', b'canary'))


def vmdk_that_names_a_file(canary, path):
    """OSSA-2023-002."""
    path.write_text(
        '# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\n'
        'createType="monolithicFlat"\nRW %d FLAT "%s" 0\n'
        'ddb.adapterType = "ide"\n' % (DISK_SIZE // 512, canary))


def a_json_name(canary, path):
    path.write_text('json:{"driver":"raw","file":{"driver":"file",'
                    '"filename":"%s"}}' % canary)


def header_of(disk_format):
    def make(canary, path):
        domains.run('qemu-img', 'create', '-f', disk_format, path, DISK_SIZE)

    make.__name__ = 'header_of_' + disk_format
    return make


def header_of_luks(canary, path):
    path.write_bytes(luks.header())


# Glance's safety check refuses the first ones for their first sector alone.
REFUSED = (qcow2_with_backing_file, qcow2_with_json_backing_name,
           qcow2_with_data_file, header_of('qed'))
TAKEN = (vmdk_that_names_a_file, a_json_name,
         *map(header_of, ('qcow2', 'vmdk', 'vhdx')), header_of_luks)


@pytest.fixture
def disk(area):
    """A raw disk; its guest has written a header to its start."""
    def write(attack, canary):
        header, path = area / 'header', area / 'disk'
        attack(canary, header)
        path.write_bytes(header.read_bytes()[:DISK_SIZE])
        os.truncate(path, DISK_SIZE)
        return path

    return write


@pytest.mark.parametrize('attack', REFUSED, ids=lambda made: made.__name__)
def test_raw_disk_that_glance_refuses(attack, snap_driver, glance, area, disk,
                                      canary, start_domain):
    """Nothing is sent: Glance would say so after the last byte."""
    path = disk(attack, canary)
    before = path.read_bytes()
    guest = start_domain((path, 'raw'))
    with pytest.raises(exception.ImageRefused, match='415'):
        snapshots.Snapshot(snap_driver, guest).take()

    assert glance.headers == [] and glance.data is None
    assert glance.deleted
    assert path.read_bytes() == before
    snapshots.assert_clean(guest, area)


@pytest.mark.parametrize('attack', (*REFUSED, *TAKEN),
                         ids=lambda made: made.__name__)
def test_qcow2_image_of_a_raw_disk_that_looks_like_another_format(
        attack, snap_driver, glance, area, disk, canary, conf, start_domain):
    """As a snapshot can be taken of each of them."""
    conf('snapshot_image_format', 'qcow2', 'libvirt')
    path = disk(attack, canary)
    guest = start_domain((path, 'raw'))
    snapshots.Snapshot(snap_driver, guest).take()

    image = area / 'image'
    image.write_bytes(glance.data)
    assert CANARY not in glance.data
    domains.run('qemu-img', 'compare', '-U', '-f', 'qcow2', '-F', 'raw',
                image, path)
    snapshots.assert_clean(guest, area)


@pytest.mark.parametrize('attack', TAKEN, ids=lambda made: made.__name__)
def test_raw_disk_that_looks_like_another_format(
        attack, snap_driver, glance, area, disk, canary, start_domain):
    """The guest has written it to the start of its raw disk."""
    path = disk(attack, canary)
    guest = start_domain((path, 'raw'))
    snapshots.Snapshot(snap_driver, guest).take()

    assert glance.image['disk_format'] == 'raw'
    assert glance.data == path.read_bytes()
    assert CANARY not in glance.data
    snapshots.assert_clean(guest, area)


def as_nobody(program, path):
    """Whether another local user succeeds with a program of Python's."""
    done = subprocess.run(
        ['/usr/bin/python3', '-c', 'import os, socket, sys\npath = sys.argv[1]'
         '\n' + program, path], user=NOBODY, group=NOBODY, extra_groups=[],
        capture_output=True, text=True)
    assert done.returncode == 0 or 'Error' in done.stderr, done.stderr
    return done.returncode == 0


def test_other_users_see_nothing(snap_driver, glance, area, start_domain):
    """OSSA-2014-001: under umask 0 too."""
    guest = start_domain(disks.make_qcow2(area, None))
    snapshot = snapshots.Snapshot(snap_driver, guest)
    update, succeeded = snapshot._update_task_state, []

    def attack(task_state, **states):
        update(task_state, **states)
        if task_state != 'image_uploading':
            return
        place, = (area / 'snapshots').glob('snapdriver-*')
        entry, = (area / 'journal').glob('*.json')
        for path in (place, area / 'journal'):
            succeeded.append(as_nobody('os.listdir(path)', path))
        for path in (place / 'scratch', entry):
            assert path.exists()
            succeeded.append(as_nobody('open(path, "rb")', path))
        succeeded.append(as_nobody(
            'socket.socket(socket.AF_UNIX).connect(path)', place / 'nbd'))

    snapshot._update_task_state = attack
    before = os.umask(0)
    try:
        snapshot.take()
    finally:
        os.umask(before)
    assert len(succeeded) == 5 and not any(succeeded)
    # The same attempt does succeed where nothing is private.
    assert as_nobody('os.stat(path)', area)


def test_symlink_that_was_planted(snap_driver, glance, area, canary,
                                  start_domain):
    """The directory's name cannot be known before; here it is."""
    guest = start_domain(disks.make_qcow2(area, None))
    theirs = area / 'theirs'
    theirs.mkdir()
    kept = theirs / 'kept'
    kept.write_bytes(CANARY)
    planted = area / 'snapshots' / 'snapdriver-0badcafe'
    planted.parent.mkdir()
    planted.symlink_to(theirs)
    with mock.patch('secrets.token_hex', return_value='0badcafe'):
        with pytest.raises(exception.DirectoryUnusable):
            snapshots.Snapshot(snap_driver, guest).take()
    assert planted.is_symlink()
    assert list(theirs.iterdir()) == [kept]
    assert kept.read_bytes() == CANARY
    assert glance.deleted
    guest.assert_untouched()


def test_secrets_stay_where_they_are(snap_driver, glance, area, start_domain,
                                     caplog):
    """No token in a log at any level, on a command line, in a child."""
    caplog.set_level(logging.DEBUG)
    guest = start_domain(disks.make_qcow2(area, None))
    snapshot = snapshots.Snapshot(snap_driver, guest)
    snapshot.context.auth_token = TOKEN
    children = []
    real = subprocess.Popen

    class Popen(real):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            about = pathlib.Path('/proc', str(self.pid))
            # Its files are closed, for which Popen waits, a moment before it
            # has its words.
            deadline = time.monotonic() + 20
            while (not (about / 'cmdline').read_bytes() and
                   time.monotonic() < deadline):
                time.sleep(0.001)
            children.append((about / 'cmdline').read_bytes() +
                            (about / 'environ').read_bytes())

    with mock.patch.dict(os.environ, {'OS_PASSWORD': TOKEN}), \
            mock.patch.object(subprocess, 'Popen', Popen):
        snapshot.take()
    assert glance.image['status'] == 'active'
    assert any(b'nova_snapdriver.stream' in child for child in children)
    assert not any(TOKEN.encode() in child for child in children)
    assert caplog.text and TOKEN not in caplog.text

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

"""The cold path on stopped domains of a real libvirt."""

import dataclasses

import pytest

from nova_snapdriver.capture import chain
from nova_snapdriver.capture import cold
from nova_snapdriver.capture import export
from nova_snapdriver import exception
from nova_snapdriver import imagebackend
from tests.functional import captures
from tests.functional import disks
from tests.functional import domains
from tests.functional import images

# In the specification of qcow2.
BACKING_FORMAT = bytes.fromhex('e2792aca')
# The name of a base image: a hash of its ID.
CACHED = 'ab' * 20


def captured_image(guest, area, consistency=export.Consistency.OFFLINE):
    with cold.capture(captures.request_of(guest.wrapped(), area)) as captured:
        assert captured.consistency is consistency
        images.stream(captured.export, area / 'image', 'qcow2')
    assert sorted(area.glob('snapdriver-*')) == []
    domains.run('qemu-img', 'check', '-f', 'qcow2', area / 'image')
    return area / 'image'


@pytest.mark.quick
@pytest.mark.parametrize('make', disks.MAKERS)
def test_shut_off(make, area, loop_device, start_domain):
    path, disk_format = make(area, loop_device)
    guest = start_domain((path, disk_format))
    guest.domain.destroy()
    domains.run('qemu-img', 'compare', '-f', 'qcow2', '-F', disk_format,
                captured_image(guest, area), path)
    assert guest.domain.isPersistent()


@pytest.mark.quick
def test_saved_guest_goes_on_from_its_memory(area, start_domain):
    guest = start_domain(disks.make_qcow2(area, None))
    guest.domain.managedSave(0)
    # Its file systems are mounted, and it has not written all it holds.
    captured_image(guest, area, export.Consistency.CRASH)
    assert guest.domain.hasManagedSaveImage()
    guest.domain.create()
    assert not guest.domain.hasManagedSaveImage()
    guest.assert_untouched()


def test_saved_guest_that_has_to_be_quiesced(area, start_domain):
    guest = start_domain(disks.make_qcow2(area, None))
    guest.domain.managedSave(0)
    request = captures.request_of(guest.wrapped(), area)
    required = dataclasses.replace(request, settings=dataclasses.replace(
        request.settings, has_agent=True, require_quiesce=True))
    with (pytest.raises(exception.QuiesceFailed, match='suspended'),
          cold.capture(required)):
        pass
    assert sorted(area.glob('snapdriver-*')) == []
    guest.domain.create()


def unrecorded(area, base):
    """An overlay whose header does not name the format of its base."""
    top = area / 'top'
    domains.run('qemu-img', 'create', '-f', 'qcow2', '-F', 'raw', '-b', base,
                top)
    # The header's extension that names it becomes one that nobody knows.
    header = top.read_bytes()
    assert header.count(BACKING_FORMAT) == 1
    top.write_bytes(header.replace(BACKING_FORMAT, b'\0\0\0\1'))
    return disk_of(top)


def disk_of(path):
    return imagebackend.RootDisk(
        'vda', 'disk', imagebackend.Source('file', 'qcow2', str(path)))


@pytest.fixture
def cache(area, monkeypatch):
    """Makes base images in a directory of Nova's."""
    instances = area / 'instances'
    monkeypatch.setattr(chain.CONF, 'instances_path', str(instances))
    instances.mkdir()

    def make(folder, name=CACHED):
        (instances / folder).mkdir(parents=True, exist_ok=True)
        path, _ = disks.make_raw(area, None)
        return path.rename(instances / folder / name)

    return make


@pytest.mark.parametrize('base_format', (None, 'qcow2', 'vmdk'))
def test_backing_format_is_never_guessed(area, cache, base_format):
    """Today's force_raw_images says nothing of the day it was cached."""
    with pytest.raises(exception.DiskUnusable, match='not known.*rebase'):
        chain.images(unrecorded(area, cache('_base')), base_format)


def test_backing_format_of_an_image_that_is_raw(area, cache):
    """Nova caches it as it is."""
    below = chain.images(unrecorded(area, cache('_base')), 'raw')[1]
    assert below.format == 'raw'


def test_backing_format_beside_the_disk_is_not_of_the_image(area, cache):
    base = cache('.')
    with pytest.raises(exception.DiskUnusable, match='not known'):
        chain.images(unrecorded(base.parent, base), 'raw')


def overlay(area, base):
    top = area / 'servers' / 'top'
    top.parent.mkdir()
    domains.run('qemu-img', 'create', '-f', 'qcow2', '-F', 'raw', '-b', base,
                top)
    return disk_of(top)


@pytest.mark.parametrize('folder, name', (
    ('_base', 'any'), ('base_host1', CACHED), ('base_host1', CACHED + '_20'),
    ('cache/host1', CACHED)))
def test_cache_directory_of_another_day(area, cache, folder, name):
    """[image_cache] subdirectory_name was changed since."""
    base = cache(folder, name)
    assert [image.path for image in chain.images(overlay(area, base))] == [
        str(area / 'servers/top'), str(base)]


@pytest.mark.parametrize('folder, name', (
    ('base_host1', 'disk'), ('.', CACHED),
    ('b5c7ee53-1111-4b2e-8ba0-3c7ec9d04aa1', CACHED),
    ('../elsewhere', CACHED)))
def test_files_of_nobodys_cache(area, cache, folder, name):
    base = cache(folder, name)
    with pytest.raises(exception.DiskUnusable, match='neither in the image'):
        chain.images(overlay(area, base))


def test_backing_file_somewhere_else_is_not_read(area):
    """A header that no Nova wrote cannot make a file of the host's leave."""
    secret = area / 'elsewhere' / 'secret'
    secret.parent.mkdir()
    secret.write_bytes(bytes(1 << 20))
    top = area / 'top'
    domains.run('qemu-img', 'create', '-f', 'qcow2', '-F', 'raw', '-b',
                secret, top)
    disk = imagebackend.RootDisk(
        'vda', 'disk', imagebackend.Source('file', 'qcow2', str(top)))
    with pytest.raises(exception.DiskUnusable, match='neither in the image'):
        chain.images(disk)


def test_data_file_is_not_read(area):
    """OSSA-2024-001."""
    top = area / 'top'
    domains.run('qemu-img', 'create', '-f', 'qcow2', '-o',
                'data_file=%s,data_file_raw=on' % (area / 'data'), top,
                1 << 20)
    disk = imagebackend.RootDisk(
        'vda', 'disk', imagebackend.Source('file', 'qcow2', str(top)))
    with pytest.raises(exception.DiskUnusable, match='another file'):
        chain.images(disk)


def test_backing_file_that_a_user_names_is_not_read(area, cache):
    """Not even another image in the cache: it may be another user's."""
    base, secret = cache('_base'), cache('_base', CACHED[::-1])
    disk = overlay(area, base)
    domains.run('qemu-img', 'create', '-f', 'qcow2', '-F', 'raw', '-b', secret,
                base)
    top = base.parent / 'top'
    domains.run('qemu-img', 'create', '-f', 'qcow2', '-F', 'qcow2', '-b', base,
                top)
    top.rename(disk.source.path)
    with pytest.raises(exception.DiskUnusable, match='never followed'):
        chain.images(disk)

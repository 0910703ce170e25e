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

"""A real Ceph with pools of disks and of images."""

import contextlib
import pathlib
import shutil
import socket
import tempfile
from unittest import mock

from nova.storage import rbd_utils
import pytest

from lab.openstack import ceph as lab_ceph
from lab.openstack import settings
from nova_snapdriver.recovery import images as recovery_images
from nova_snapdriver.recovery import undo
from tests.functional import domains
from tests.functional import snapshots

BASE = 'images/base'
COPY = 'images/' + snapshots.IMAGE_ID
SIZE = 12 << 20


@contextlib.contextmanager
def running():
    """A cluster; its disks are in the pool vms, images in images."""
    if shutil.which('ceph-osd') is None or rbd_utils.rbd is None:
        pytest.skip('needs Ceph: ceph-mon ceph-mgr ceph-osd ceph-common '
                    'python3-rbd python3-rados')
    # Short, as admin sockets are in it.
    root = pathlib.Path(tempfile.mkdtemp(prefix='snapdriver-ceph-',
                                         dir='/var/tmp'))
    root.chmod(0o711)
    made = settings.Settings(root, root, '', settings.Ports(ceph=free_port()))
    for path in (made.logs, made.state):
        path.mkdir()
    try:
        with lab_ceph.Ceph(made) as cluster:
            make_base(cluster)
            yield cluster
    finally:
        shutil.rmtree(root)


def free_port():
    """One of two neighbours that are free."""
    for port in range(36789, 37789, 2):
        try:
            for number in (port, port + 1):
                socket.create_server(('127.0.0.1', number)).close()
        except OSError:
            continue
        return port
    raise AssertionError('no port is free')


def make_base(cluster):
    cluster.rbd('create', BASE, '--size', '%dB' % SIZE)
    write(cluster, BASE, 1, 0, 1 << 20)
    cluster.rbd('snap', 'create', BASE + '@snap')
    cluster.rbd('snap', 'protect', BASE + '@snap')


def write(cluster, name, byte, offset, length):
    domains.run('qemu-io', '-f', 'raw', '-c', 'write -P %d %d %d' % (
        byte, offset, length), 'rbd:%s:conf=%s' % (name, cluster.conf))


def export(cluster, name, path):
    path.unlink(missing_ok=True)
    cluster.rbd('export', name, str(path))
    return path


def recover(driver, image_there):
    """Undo what a crash left, with Glance's image there or not."""
    with mock.patch.multiple(
            recovery_images, exists=mock.Mock(return_value=image_there),
            delete_unfinished=mock.Mock(return_value=not image_there)):
        outcome, = undo.Recovery(undo.Tools(
            driver._host, mock.Mock(), mock.Mock(), 5)).run(driver._journal)
    assert outcome.failed == ()


def images(cluster):
    return ['images/' + name for name in cluster.rbd('ls', 'images').split()]

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

"""Disks of each kind that Nova gives a guest, with the same content.

Each maker takes the test's directory, and what attaches a loop device.
"""

from tests.functional import domains

# 10 MiB and three sectors: neither a whole cluster nor a whole page.
ODD_SIZE = 10 * 1024 * 1024 + 1536
PATTERN = ((1, 0, 65536), (2, 1048576, 4096), (3, 5242880, 199680),
           (4, ODD_SIZE - 512, 512))


def write_patterns(path, disk_format):
    for byte, offset, length in PATTERN:
        domains.run('qemu-io', '-f', disk_format, '-c',
                    'write -P %d %d %d' % (byte, offset, length), path)


def make_qcow2(area, loop_device):
    path = area / 'disk.qcow2'
    domains.run('qemu-img', 'create', '-f', 'qcow2', path, ODD_SIZE)
    write_patterns(path, 'qcow2')
    return path, 'qcow2'


def make_raw(area, loop_device):
    path = area / 'disk.raw'
    domains.run('qemu-img', 'create', '-f', 'raw', path, ODD_SIZE)
    write_patterns(path, 'raw')
    return path, 'raw'


def make_overlay(area, loop_device):
    base, _ = make_raw(area, loop_device)
    path = area / 'overlay.qcow2'
    domains.run('qemu-img', 'create', '-f', 'qcow2', '-F', 'raw', '-b', base,
                path)
    domains.run('qemu-io', '-f', 'qcow2', '-c', 'write -P 7 1048576 1024',
                '-c', 'write -z 5242880 65536', path)
    return path, 'qcow2'


def make_block(area, loop_device):
    path, disk_format = make_raw(area, loop_device)
    return loop_device(path), disk_format


FILE_MAKERS = (make_qcow2, make_raw, make_overlay)
MAKERS = (*FILE_MAKERS, make_block)

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

import io
import itertools

from lab.bench import cephways
from lab.bench import disks


def test_names_are_unique():
    for chosen in (disks.QUICK, disks.DEFAULT, disks.FULL, disks.CEPH):
        assert len({disk.name for disk in chosen}) == len(chosen)


def test_contenders_are_known():
    for disk in disks.FULL + disks.QUICK + disks.CEPH:
        assert set(disk.contenders) <= set(cephways.ALL)


def test_the_ratios_have_their_disks():
    kinds = {(disk.kind, disk.busy): set(disk.contenders)
             for disk in reversed(disks.DEFAULT)}
    assert {'plain', 'zstd', 'curl', 'stock', 'read',
            'nbdcopy'} <= kinds['random', True]
    assert {'zstd', 'zlib', 'curl', 'stock',
            'stock-compressed'} <= kinds['tree', True]
    assert {'zstd', 'curl'} <= kinds['tree', False]


def test_pieces_are_cut_to_the_size():
    file = io.BytesIO()
    disks.write(file, itertools.repeat(b'abc'), 7)
    assert file.getvalue() == b'abcabca'


def test_a_tree_of_libraries_and_python_files(tmp_path):
    for name, text in (('a.py', b'a'), ('lib.so.1', b'b' * 5000),
                       ('c.gz', b'c')):
        (tmp_path / name).write_bytes(text)
    (tmp_path / 'link.py').symlink_to('a.py')
    pieces = list(itertools.islice(disks.tree_pieces((tmp_path,)), 3))
    assert [len(piece) for piece in pieces] == [4096, 8192, 4096]
    assert pieces[0] == pieces[2] == b'a' + bytes(4095)


def test_a_sparse_disk_has_one_extent_in_four(tmp_path):
    with open(tmp_path / 'disk', 'wb') as file:
        disks.write_sparse(file.fileno(), 3 * disks.EXTENT_BYTES)
    size = disks.guest.SMALL_DISK_BYTES + 9 * disks.EXTENT_BYTES
    assert (tmp_path / 'disk').stat().st_size == size

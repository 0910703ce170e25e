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

import subprocess
import sys

import pytest

from nova_snapdriver.stream import extents
from nova_snapdriver.stream import formats

CLUSTER = extents.CLUSTER_SIZE
# What nova-compute has no use for: the modules that read, write or compress.
CHILD_ONLY = ('nbd', 'pipeline', 'readahead', 'writeback', 'compressor',
              'codec', 'sample', 'packer', 'packed', 'choice')
SEEN = """
import nova_snapdriver.stream.formats
import sys
print(*sys.modules)
"""


def test_table_brings_no_reader_and_no_writer():
    seen = subprocess.run([sys.executable, '-c', SEEN], check=True,
                          capture_output=True, text=True).stdout.split()
    assert 'nova_snapdriver.stream.formats' in seen
    assert not {f'nova_snapdriver.stream.{name}'
                for name in CHILD_ONLY}.intersection(seen)


@pytest.mark.parametrize('name', formats.FORMATS)
def test_formats_that_are_packed_alone_leave_zeros_out(name):
    """A disk with one cluster of data, and another with sixteen."""
    little, much = (extents.ClusterMap(16 * CLUSTER) for _ in range(2))
    little.mark(0, 1)
    much.mark(0, 16 * CLUSTER)
    found = formats.FORMATS[name]
    saved = found.plain(much).length - found.plain(little).length
    assert saved == (15 * CLUSTER if found.packed else 0)

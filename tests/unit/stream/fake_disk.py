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

"""A disk that the tests read from memory."""

import random

from nova_snapdriver.stream import extents

CLUSTER = extents.CLUSTER_SIZE
RANDOM = random.Random(1)
NOISE = RANDOM.randbytes(CLUSTER)
VOCABULARY = [RANDOM.randbytes(RANDOM.randrange(2, 12)) for _ in range(2000)]
WORDS = b' '.join(
    VOCABULARY[int(2000 * RANDOM.random() ** 3)] for _ in range(20000))
KINDS = {'noise': NOISE, 'zeros': bytes(CLUSTER), 'text': b'text' * 16384,
         'words': WORDS[:CLUSTER],
         'half': NOISE.translate(bytes(range(16)) * 16)}


class Source:
    """A disk that answers at once, the latest question first."""

    def __init__(self, disk):
        self._disk = disk
        self._asked = []
        self.read_bytes = 0

    def read(self, buffer, offset, done):
        self._asked.append((buffer, offset, done))

    def wait(self):
        buffer, offset, done = self._asked.pop()
        buffer[:] = self._disk[offset:offset + len(buffer)]
        self.read_bytes += len(buffer)
        done(0)


class Kinds:
    """A disk of which only the kind of each cluster is kept."""

    def __init__(self, kinds):
        self._kinds = kinds

    def __len__(self):
        return len(self._kinds) * CLUSTER

    def __getitem__(self, part):
        first, end = part.start // CLUSTER, -(-part.stop // CLUSTER)
        found = b''.join(KINDS[kind] for kind in self._kinds[first:end])
        return found[part.start - first * CLUSTER:
                     part.stop - first * CLUSTER]


def mapped(disk):
    """The map of a disk that is all data."""
    clusters = extents.ClusterMap(len(disk))
    clusters.mark(0, len(disk))
    return clusters

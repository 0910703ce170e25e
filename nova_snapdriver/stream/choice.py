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

"""Chooses how an image is made, from a map and a sample of the disk."""

from collections.abc import Callable
import dataclasses
import math
import os
import resource

from nova_snapdriver.stream import arguments as stream_arguments
from nova_snapdriver.stream import extents
from nova_snapdriver.stream import formats
from nova_snapdriver.stream import image as stream_image
from nova_snapdriver.stream import nbd
from nova_snapdriver.stream import packed
from nova_snapdriver.stream import pipeline
from nova_snapdriver.stream import qcow2
from nova_snapdriver.stream import sample as stream_sample
from oslo_utils import units

# An image that is not made smaller than this part of the plain one is sent
# plain.
_SMALLER = 0.95

# Zeros are looked for where so much of a disk is said to be data: the map of
# a block device or of a preallocated file says so of all, or of all that was
# not trimmed.
_FULL = 0.5

# For each cluster of the image, and the part of the address space that all of
# them may take.
_TABLE_BYTES = 2
_TABLES = 4


@dataclasses.dataclass(frozen=True)
class _Plan:
    """How an image is to be made.

    :param place: of its tables, in clusters; 0 for a plain image
    :param why: why it is plain, in words; empty if nothing else was asked for
    """

    place: int = 0
    sample: stream_sample.Sample | None = None
    why: str = ''


def choose(arguments: stream_arguments.Arguments, export: nbd.Client,
           source: pipeline.Source,
           check: Callable[[], None]) -> stream_image.Image:
    """Map the disk and lay out its image.

    :param source: reads the export
    :param check: raises if the image is not wanted any more
    :raises ExportError: the disk could not be mapped, or not read
    """
    clusters = mapped(export)
    wanted = formats.FORMATS[arguments.format]
    settings = stream_sample.Settings(
        arguments.compression if wanted.packed else None,
        arguments.threads or len(os.sched_getaffinity(0)))
    plan = _plan(arguments, clusters, stream_sample.Sampler(
        source, clusters, settings, check))
    if not plan.place or wanted.packed is None:
        return stream_image.PlainImage(wanted.plain(clusters), plan.why)
    return packed.PackedImage(
        clusters, settings,
        wanted.packed(clusters, settings.codec, plan.place),
        plan.sample, arguments.harder_from)


def mapped(export: nbd.Client) -> extents.ClusterMap:
    """Which clusters of a disk hold data.

    :raises ExportError: the disk could not be mapped
    """
    clusters = extents.ClusterMap(export.size)
    for offset, length in export.data_extents():
        clusters.mark(offset, length)
    return clusters


def _plan(arguments: stream_arguments.Arguments, clusters: extents.ClusterMap,
          sampler: stream_sample.Sampler) -> _Plan:
    if arguments.place >= 0:
        return _Plan(arguments.place)
    wanted = formats.FORMATS[arguments.format]
    if wanted.packed is None or not _worth_a_sample(arguments, clusters):
        return _Plan()
    sample = sampler.take()
    codec = arguments.compression
    packing = wanted.packed(clusters, codec, _place(sample, clusters))
    plain = wanted.plain(clusters).length
    if packing.length > _SMALLER * plain:
        return _Plan(why='a sample of %d clusters says that %d bytes would '
                     'shrink to %d' % (sample.clusters, plain, packing.length))
    if not _fits(packing.total):
        return _Plan(why='its tables would take %d MiB of memory' % (
            packing.total * _TABLE_BYTES // units.Mi))
    return _Plan(packing.place, sample)


def _worth_a_sample(arguments: stream_arguments.Arguments,
                    clusters: extents.ClusterMap) -> bool:
    count = clusters.count()
    if arguments.compression is None:
        return count > _FULL * clusters.clusters
    return count > 0


def _place(sample: stream_sample.Sample, clusters: extents.ClusterMap) -> int:
    """Where the tables are to be, in clusters."""
    tables = sum(1 for _ in clusters.groups(qcow2.ENTRIES_PER_TABLE))
    most = (tables + sample.whole) * sample.plain_bytes
    need = sample.expected + sample.margin + tables * sample.plain_bytes
    # The header, and what is left of a cluster at the end.
    return 2 + math.ceil(min(need, most) / extents.CLUSTER_SIZE)


def _fits(total: int) -> bool:
    """Whether the tables of an image of so many clusters fit in memory."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return limit == resource.RLIM_INFINITY or (
        total * _TABLE_BYTES * _TABLES <= limit)

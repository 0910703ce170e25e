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

"""What a fault is to the harness."""

import collections.abc
import dataclasses
import random

from lab.faults import harness
from lab.observe import measure
from lab.openstack import config
from lab.openstack import domain
from lab.openstack import process
from lab.openstack import proxy
from lab.openstack import stack


@dataclasses.dataclass
class Scene:
    """A snapshot on its way, for a fault to happen to."""

    one: harness.Watched
    harness: harness.Harness
    random: random.Random
    image_id: str = ''

    @property
    def lab(self) -> stack.Stack:
        return self.harness.lab

    @property
    def server(self) -> measure.Server:
        return self.one.server

    @property
    def domain(self) -> domain.Domain:
        return self.one.server.domain


Action = collections.abc.Callable[[Scene], None]


def nothing(scene: Scene) -> None:
    """Leave it to the proxy."""


@dataclasses.dataclass(frozen=True)
class Case:
    """A row to be.

    :param ends: the image's end: `active`, `gone` or `either`
    :param guest: the guest's: `untouched`, `booted` (it may have booted
        again), `stopped` or `deleted`
    :param fault: what the proxy does, at a random byte; None where the
        snapshot does not get that far
    :param before: happens before the snapshot
    :param during: happens while the upload is held
    :param after: undoes it, before the checks
    :param disk: where disks and images are; see :data:`harness.IMAGES`
    """

    name: str
    ends: str
    guest: str = 'untouched'
    fault: proxy.Fault | None = proxy.Fault('hold')
    before: Action = nothing
    during: Action = nothing
    after: Action = nothing
    options: config.Options = ()
    quick: bool = False
    only_ours: bool = False
    disk: str = 'file'


def waiting_for(what: str, ready: collections.abc.Callable[[], bool]) -> None:
    """Wait for something that a fault needs."""
    process.wait_for(what, ready, harness.POINT_TIMEOUT)

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
from lab.openstack import process
from lab.openstack import proxy

Options = tuple[tuple[str, str, str], ...]


@dataclasses.dataclass
class Scene:
    """A snapshot on its way, for a fault to happen to."""

    bench: harness.Harness
    one: harness.Watched
    random: random.Random
    image_id: str = ''


Action = collections.abc.Callable[[Scene], None]


def nothing(scene: Scene) -> None:
    """Nothing happens but what the proxy does."""


@dataclasses.dataclass(frozen=True)
class Case:
    """A row to be.

    :param ends: what the image is then: `active`, `gone` or `either`
    :param guest: what the guest is then: `untouched`, `booted` (it may have
        booted again), `stopped` or `deleted`
    :param fault: what the proxy does, of which the byte is made up; none
        where the snapshot does not get that far
    :param before: done before the snapshot
    :param during: done while an upload is held, and before it goes on
    :param after: undoes what was done, before one looks
    """

    name: str
    ends: str
    guest: str = 'untouched'
    fault: proxy.Fault | None = proxy.Fault('hold')
    before: Action = nothing
    during: Action = nothing
    after: Action = nothing
    options: Options = ()
    quick: bool = False
    only_ours: bool = False


def waiting_for(what: str, ready: collections.abc.Callable[[], bool]) -> None:
    """Wait for something that a fault needs."""
    process.wait_for(what, ready, harness.POINT_TIMEOUT)

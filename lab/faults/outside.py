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

"""Faults from outside, most of them in the middle of an upload."""

import dataclasses
import itertools
import time

from lab.faults import cases
from lab.faults import harness
from lab.faults import mishaps
from lab.openstack import proxy
from lab.openstack import settings

MI = 1 << 20
Case = cases.Case


def listed(driver: str) -> list[Case]:
    """Return all rows, those with the same options in sequence."""
    found = [*_glance_cases(), *mishaps.listed()]
    return [one for one in found
            if driver == 'ours' or not (one.only_ours or one.options)]


def _glance_cases() -> list[Case]:
    fault = proxy.Fault
    found = [
        Case('glance is slow', 'active', fault=fault('slow', rate=20 * MI)),
        Case('glance stalls', 'active', fault=fault('stall')),
        Case('glance resets', 'active', fault=fault('reset')),
        Case('glance cuts', 'active', fault=fault('cut'), quick=True),
        Case('glance cuts every time', 'gone', fault=fault('cut', times=9)),
        Case('glance loses each answer', 'active',
             fault=fault('lost', times=9)),
        Case('glance answers 503 once', 'active',
             fault=fault('answer', status=503)),
        Case('glance answers 503 every time', 'gone',
             fault=fault('answer', status=503, times=9))]
    found += [Case(f'glance answers {status}', 'gone',
                   fault=fault('answer', status=status, times=9),
                   quick=status == 413)
              for status in (401, 403, 409, 410, 413, 415, 500)]
    found += [Case(f'glance refuses with {status} on the way', 'gone',
                   fault=fault('refuse', status=status, times=9))
              for status in (401, 413, 415)]
    lies = {'nothing': 'stores nothing', 'short': 'stores a byte less',
            'flip': 'stores another byte', 'size': 'tells another size',
            'hash': 'tells another hash'}
    return found + [Case(f'glance lies: it {words}', 'gone',
                         fault=fault(kind, times=9), quick=kind == 'flip')
                    for kind, words in lies.items()]


class Outside:
    """Lets them happen, and checks what comes of them."""

    def __init__(self, found: harness.Harness) -> None:
        self.harness = found

    def run(self, wanted: list[Case]) -> None:
        for (disk, options), group in itertools.groupby(
                wanted, lambda one: (one.disk, one.options)):
            self.harness.use(disk, *(
                (name, key, value.format(small=self.harness.mounted))
                for name, key, value in options))
            for case in group:
                self.trial(case)

    def trial(self, case: Case, number: int | None = None) -> None:
        """Let one happen to the first server.

        :param number: tells rows of the same name apart
        """
        name = case.name if number is None else f'{number} {case.name}'
        row = self.harness.row(name)
        began = time.monotonic()
        try:
            self.harness.boot(1)
            self._attempt(case, row)
        except (settings.LabError, OSError) as error:
            row.problems.append(str(error))
        row.seconds = round(time.monotonic() - began, 1)
        self.harness.table.add(row)
        if row.problems:
            self.harness.repair()

    def _attempt(self, case: Case, row: harness.Row) -> None:
        scene = cases.Scene(self.harness.servers[0], self.harness,
                            self.harness.random(row.name))
        scene.one.begin()
        case.before(scene)
        try:
            self._snapshot(case, scene)
        finally:
            self.harness.proxy.clear()
            case.after(scene)
        row.problems += self.harness.left()
        # Read now: the image's end may come a little later than the task's.
        row.image = self.harness.image_status(scene.image_id)
        self._check(case, scene, row)

    def _snapshot(self, case: Case, scene: cases.Scene) -> None:
        intruder = self.harness.proxy
        if case.fault is not None:
            intruder.arm(dataclasses.replace(
                case.fault, at=scene.random.randrange(harness.UPLOAD_BYTES)))
        scene.image_id = self.harness.snapshot(scene.one)
        if case.fault is None:
            case.during(scene)
        elif case.fault.kind == 'hold':
            if not intruder.held.wait(harness.POINT_TIMEOUT):
                raise settings.LabError('no upload began')
            case.during(scene)
            intruder.clear()
        if case.guest != 'deleted':
            self.harness.wait_idle(scene.one)

    def _check(self, case: Case, scene: cases.Scene, row: harness.Row) -> None:
        """Check image and guest, and that another snapshot works."""
        one, problems = scene.one, row.problems
        if case.ends != 'either' and row.image != case.ends:
            problems.append(f'the image is {row.image}, not {case.ends}')
        problems += self._guest(case, one)
        if row.image == 'active':
            problems += self.harness.image_problems(one, scene.image_id)
            self.harness.api.delete_image(scene.image_id)
        if case.guest == 'deleted':
            return
        if case.guest == 'booted':
            one.begin()     # a round that it wrote and did not print is lost
        problems += self.harness.next_fails(one, self.harness.snapshot(one))
        problems += self.harness.guest_problems(one)
        problems += self.harness.left()
        if one.without_agent:
            self.harness.remove(one)

    def _guest(self, case: Case, one: harness.Watched) -> list[str]:
        if case.guest == 'deleted':
            self.harness.servers.remove(one)
            return []
        if case.guest != 'stopped':
            return self.harness.guest_problems(
                one, booted=case.guest == 'booted')
        self.harness.api.wait_server(one.server.id, 'SHUTOFF')
        problems = self.harness.guest_problems(one, 'shut off')
        self.harness.api.change(one.server.id, 'os-start', 'ACTIVE')
        one.begin()
        return problems

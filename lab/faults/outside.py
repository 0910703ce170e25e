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


"""Faults that come from outside, most of them in the middle of an upload."""

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
    """All rows, those with the same options next to each other."""
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
        Case('glance refuses with 413 on the way', 'gone',
             fault=fault('refuse', status=413, times=9)),
        Case('glance answers 503 once', 'active',
             fault=fault('answer', status=503)),
        Case('glance answers 503 every time', 'gone',
             fault=fault('answer', status=503, times=9))]
    found += [Case(f'glance answers {status}', 'gone',
                   fault=fault('answer', status=status, times=9),
                   quick=status == 413)
              for status in (401, 403, 409, 410, 413, 415, 500)]
    lies = {'nothing': 'stores nothing', 'short': 'stores a byte less',
            'flip': 'stores another byte', 'size': 'tells another size',
            'hash': 'tells another hash'}
    return found + [Case(f'glance lies: it {words}', 'gone',
                         fault=fault(kind, times=9), quick=kind == 'flip')
                    for kind, words in lies.items()]


class Outside:
    """Lets them happen, and sees what becomes of the server."""

    def __init__(self, bench: harness.Harness) -> None:
        self.bench = bench

    def run(self, wanted: list[Case]) -> None:
        for options, group in itertools.groupby(
                wanted, lambda one: one.options):
            self.bench.use('file', *(
                (group_name, key, value.format(small=self.bench.mounted))
                for group_name, key, value in options))
            for case in group:
                self.trial(case)

    def trial(self, case: Case, number: int | None = None) -> None:
        """Let one happen to the first server.

        :param number: tells it from others of its name
        """
        bench = self.bench
        name = case.name if number is None else f'{number} {case.name}'
        row = bench.row(name)
        began = time.monotonic()
        try:
            bench.boot(1)
            self._attempt(case, row)
        except (settings.LabError, OSError) as error:
            row.problems.append(str(error))
        row.seconds = round(time.monotonic() - began, 1)
        bench.finish(row)
        if row.problems:
            bench.repair()

    def _attempt(self, case: Case, row: harness.Row) -> None:
        bench = self.bench
        scene = cases.Scene(bench, bench.servers[0], bench.random(row.name))
        scene.one.begin()
        case.before(scene)
        try:
            self._snapshot(case, scene)
        finally:
            bench.proxy.clear()
            case.after(scene)
        self._after(case, scene, row)

    def _snapshot(self, case: Case, scene: cases.Scene) -> None:
        bench = self.bench
        if case.fault is not None:
            bench.proxy.arm(dataclasses.replace(
                case.fault, at=scene.random.randrange(harness.UPLOAD_BYTES)))
        scene.image_id = bench.snapshot(scene.one)
        if case.fault is None:
            case.during(scene)
        elif case.fault.kind == 'hold':
            if not bench.proxy.held.wait(harness.POINT_TIMEOUT):
                raise settings.LabError('no upload began')
            case.during(scene)
            bench.proxy.clear()
        if case.guest != 'deleted':
            bench.wait_idle(scene.one)

    def _after(self, case: Case, scene: cases.Scene, row: harness.Row) -> None:
        bench, one, problems = self.bench, scene.one, row.problems
        problems += bench.left()
        # Now: that it is gone may come a little later.
        row.image = bench.image_status(scene.image_id)
        if case.ends != 'either' and row.image != case.ends:
            problems.append(f'the image is {row.image}, not {case.ends}')
        problems += self._guest(case, one)
        if row.image == 'active':
            problems += bench.held_rounds(one, scene.image_id)
            bench.api.delete_image(scene.image_id)
        if case.guest == 'deleted':
            return
        if case.guest == 'booted':
            one.begin()         # one that it wrote and did not tell is missing
        problems += bench.active(one, bench.snapshot(one))
        problems += bench.guest_problems(one)
        problems += bench.left()
        if one.without_agent:
            bench.remove(one)

    def _guest(self, case: Case, one: harness.Watched) -> list[str]:
        bench = self.bench
        if case.guest == 'deleted':
            bench.servers.remove(one)
            return []
        if case.guest != 'stopped':
            return bench.guest_problems(one, again=case.guest == 'booted')
        bench.api.wait_server(one.server.id, 'SHUTOFF')
        problems = bench.guest_problems(one, 'shut off')
        bench.api.action(one.server.id, 'os-start')
        bench.api.wait_server(one.server.id)
        one.begin()
        return problems

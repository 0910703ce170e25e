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

"""Do steps, and print how long each takes."""

import collections.abc
import concurrent.futures
import dataclasses
import threading
import time

Action = collections.abc.Callable[[], str | None]


@dataclasses.dataclass(frozen=True)
class Step:
    """A name and an action, which may return a note to print."""

    name: str
    action: Action


# Steps one after another; those of a group run at the same time.
Plan = list[Step | list[Step]]


class _Report:
    """Prints a line for each step."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0
        self._lock = threading.Lock()

    def run(self, step: Step) -> None:
        """Do a step; an exception gets its name as a note."""
        began = time.monotonic()
        try:
            note = step.action()
        except Exception as error:
            self._line(step.name, began, 'FAILED')
            error.add_note(step.name)
            raise
        self._line(step.name, began, note or '')

    def _line(self, name: str, began: float, note: str) -> None:
        took = time.monotonic() - began
        with self._lock:
            self._done += 1
            width = len(str(self._total))
            number = f'[{self._done:{width}}/{self._total}]'
            print(f'{number} {name} … {took:.1f} s {note}'.rstrip(),
                  flush=True)


def run(plan: Plan) -> None:
    """Do the steps of a plan, up to the first that fails."""
    groups = [item if isinstance(item, list) else [item] for item in plan]
    report = _Report(sum(len(group) for group in groups))
    for group in groups:
        with concurrent.futures.ThreadPoolExecutor(len(group)) as pool:
            for done in [pool.submit(report.run, step) for step in group]:
                done.result()

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

"""Steps, shown with their progress and time."""

import collections.abc
import concurrent.futures
import dataclasses
import json
import pathlib
import threading
import time

Action = collections.abc.Callable[[], str | None]


@dataclasses.dataclass(frozen=True)
class Step:
    """Something to do; the action may return a word on what it found."""

    name: str
    action: Action


# Steps that are done one after another, or a group done at the same time.
Plan = list[Step | list[Step]]


class Report:
    """Does steps and prints a line for each."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0
        self._lock = threading.Lock()

    def run(self, step: Step) -> None:
        """Do one step. A failure is named after the step that failed."""
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
    """Do a plan's steps; the first failure ends it."""
    groups = [item if isinstance(item, list) else [item] for item in plan]
    report = Report(sum(len(group) for group in groups))
    for group in groups:
        with concurrent.futures.ThreadPoolExecutor(len(group)) as pool:
            for done in [pool.submit(report.run, step) for step in group]:
                done.result()


def save(target: pathlib.Path | None, **found: object) -> None:
    """Write what was found as JSON, if a file for it was named.

    :param found: dataclasses, and what JSON knows
    """
    if target is not None:
        target.write_text(json.dumps(
            found, indent=2, default=dataclasses.asdict) + '\n')

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

"""What the subcommands of lab/run have in common."""

import argparse
import collections.abc
import dataclasses
import json
import os
import pathlib
import typing

from lab.openstack import stack


class Command(typing.Protocol):
    """A module, or an object, that is a subcommand.

    Its docstring's first line is the help text.
    """

    __doc__: str | None

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the subcommand's arguments."""

    def run(self, lab: stack.Stack, args: argparse.Namespace) -> int:
        """Do it, and return the exit status.

        :raises LabError: the lab failed, and not what it tries
        """


# Arguments that mean the same in every subcommand


def path(text: str) -> pathlib.Path:
    """Parse a file's name, relative to where lab/run was called."""
    return pathlib.Path(os.environ.get('SNAPDRIVER_CALLER_DIR', '.'), text)


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--json', metavar='FILE', type=path,
                        help='write the results to FILE, too')


def add_only(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--only', metavar='WORDS', action='append',
                        default=[], help='take only rows whose names contain'
                        ' WORDS; may be repeated')


def add_seed(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--seed', metavar='N', type=int, default=1,
                        help='seed everything random (default: %(default)s)')


class _Named(typing.Protocol):
    @property
    def name(self) -> str: ...


Named = typing.TypeVar('Named', bound=_Named)


def chosen(things: collections.abc.Iterable[Named],
           only: collections.abc.Sequence[str]) -> list[Named]:
    """Return those whose names contain some WORDS of --only."""
    return [one for one in things
            if not only or any(words in one.name for words in only)]


# Results


@dataclasses.dataclass
class Row:
    """The result of one trial."""

    name: str
    ok: bool = False
    seconds: float | None = None
    problems: list[str] = dataclasses.field(default_factory=list)


AnyRow = typing.TypeVar('AnyRow', bound=Row)


class Table(typing.Generic[AnyRow]):
    """The rows of a run; each is printed as it comes.

    :param line: formats a row
    :param target: a file for the rows, as JSON; written at each row, as a
        run takes its time and may fail
    """

    def __init__(self, line: collections.abc.Callable[[AnyRow], str],
                 target: pathlib.Path | None = None) -> None:
        self.rows: list[AnyRow] = []
        self._line = line
        self._target = target

    def add(self, row: AnyRow) -> None:
        """Judge and print a row."""
        row.ok = not row.problems
        self.rows.append(row)
        print(self._line(row), flush=True)
        for problem in row.problems:
            print(f'    {problem}', flush=True)
        self.save()

    def save(self, **more: object) -> None:
        save(self._target, rows=self.rows, **more)

    def status(self) -> int:
        """Print how many rows are ok, and return the exit status."""
        fine = sum(row.ok for row in self.rows)
        print(f'{fine} of {len(self.rows)} rows are ok')
        return 0 if self.rows and fine == len(self.rows) else 1


def save(target: pathlib.Path | None, **found: object) -> None:
    """Write results as JSON, if a file was named.

    :param found: dataclasses, and what JSON knows
    """
    if target is not None:
        target.write_text(json.dumps(
            found, indent=2, default=dataclasses.asdict) + '\n')

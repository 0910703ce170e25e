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

"""Rules of this repository that no other tool knows, as plugins of flake8.

tox.ini gives each of them to flake8, and HACKING.rst says why it is one.
"""

import abc
import ast
from collections.abc import Iterator
from typing import ClassVar

from nova_snapdriver.hacking import formats
from nova_snapdriver.hacking import rooms


class Check(abc.ABC):
    """A rule about one file. flake8 makes the object and calls `run`."""

    code: ClassVar[str]

    def __init__(self, tree: ast.Module, filename: str) -> None:
        self.tree = tree
        self.module = rooms.locate(filename)

    def run(self) -> Iterator[tuple[int, int, str, type]]:
        """Yield what breaks the rule: line, column, text, and this class."""
        for line, text in self.found():
            yield line, 0, f'{self.code} {text}', type(self)

    @abc.abstractmethod
    def found(self) -> Iterator[tuple[int, str]]:
        """Yield the line and the description of what breaks the rule."""

    def is_in(self, *packages: str) -> bool:
        """Whether the file is in one of these top-level folders."""
        return self.module is not None and (
            self.module.name.split('.')[0] in packages)


class FormatGuessed(Check):
    """A program of QEMU's that is not told an image's format guesses it."""

    code = 'S301'

    def found(self) -> Iterator[tuple[int, str]]:
        if self.is_in(rooms.PACKAGE, 'lab'):
            for line in formats.guessed_in_python(self.tree):
                yield line, ('name the format of each image: QEMU would guess '
                             'it from what a guest has written')


class EventLoopImported(Check):
    """nova-compute runs with and without eventlet, and never with asyncio."""

    code = 'S302'

    def found(self) -> Iterator[tuple[int, str]]:
        if self.is_in(rooms.PACKAGE):
            for line, name in rooms.imported(self.tree):
                if name.split('.')[0] in ('asyncio', 'eventlet'):
                    yield line, f'{name}: nova-compute runs without it, too'


class RoomAboveImported(Check):
    """A room imports only from rooms below it, in the order of rooms.ROOMS."""

    code = 'S310'

    def found(self) -> Iterator[tuple[int, str]]:
        if self.module is None:
            return
        room = rooms.room_of(self.module.name)
        if room is None:
            return
        if room not in ('', *rooms.ROOMS):
            yield 1, f'{room} has no place in the order of rooms'
            return
        yield from self._imports_above(room)

    def _imports_above(self, room: str) -> Iterator[tuple[int, str]]:
        for line, name in rooms.imported(self.tree):
            other = rooms.room_of(name)
            if other is None:
                continue
            if other not in ('', *rooms.ROOMS):
                yield line, f'{other} has no place in the order of rooms'
            elif not rooms.may_import(room, other):
                yield line, f'{other} is above {room or "the package"}'


class CircleOfImports(Check):
    """No module imports one that imports it, directly or by others."""

    code = 'S311'

    def found(self) -> Iterator[tuple[int, str]]:
        if self.module is None:
            return
        for line, name in rooms.imported(self.tree):
            way = rooms.way_back(self.module, name)
            if way:
                circle = ' imports '.join([self.module.name, *way])
                yield line, f'circle: {circle}'


class LabImportsProduct(Check):
    """The lab imports no more of the package than rooms.LAB_MAY_IMPORT."""

    code = 'S312'

    def found(self) -> Iterator[tuple[int, str]]:
        if not self.is_in('lab'):
            return
        for line, name in rooms.imported(self.tree):
            room = rooms.room_of(name)
            if room not in (None, *rooms.LAB_MAY_IMPORT):
                yield line, f'{name}: the lab sees the product from outside'


class TestImported(Check):
    """What several tests use is in a module of its own, or a fixture."""

    code = 'S320'

    def found(self) -> Iterator[tuple[int, str]]:
        for line, name in rooms.imported(self.tree):
            package, *parts = name.split('.')
            if package == 'tests' and any(
                    part.startswith(('test_', 'conftest')) for part in parts):
                yield line, f'{name} is not a library: move what is shared'


CHECKS: tuple[type[Check], ...] = (
    FormatGuessed, EventLoopImported, RoomAboveImported, CircleOfImports,
    LabImportsProduct, TestImported)

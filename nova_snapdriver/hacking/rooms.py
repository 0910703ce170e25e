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

"""The order of the package's rooms, and what imports what."""

import ast
import collections
from collections.abc import Iterator
import dataclasses
import functools
import pathlib

PACKAGE = 'nova_snapdriver'

# From the ground up. A room is a folder of the package or a module beside the
# folders, and imports only rooms that are named before it.
ROOMS = (
    # Runs in a process of its own, so it imports none of the others.
    'stream',
    'exception', 'faultpoint', 'conf', 'compat', 'threadpool', 'child',
    'waiting', 'libvirterror', 'durable',
    'imagebackend', 'host', 'guest', 'plan', 'database', 'journal',
    'metrics',
    'capture',
    'transfer',
    'recovery',
    # What the driver shares with nova-compute's manager.
    'compute',
    # Snapshots without Nova, by hand.
    'local',
    'cmd', 'driver',
    # These checks. They run in flake8, and no room imports them.
    'hacking',
)
# The lab sees the product from outside, but for the options it sets and the
# points at which it kills.
LAB_MAY_IMPORT = ('conf', 'faultpoint')


@dataclasses.dataclass(frozen=True)
class Module:
    """A module of a checkout.

    :param root: the checkout
    :param name: dotted, as in an import
    """

    root: pathlib.Path
    name: str


def locate(filename: str) -> Module | None:
    """Which module a file is; None outside of a checkout."""
    path = pathlib.Path(filename).resolve()
    for root in path.parents:
        if (root / 'tox.ini').is_file():
            parts = path.relative_to(root).with_suffix('').parts
            return Module(root, '.'.join(
                part for part in parts if part != '__init__'))
    return None


def imported(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield each import: its line, and the dotted name of what it imports.

    Relative imports are left out: hacking forbids them (H304).
    """
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                for name in names:
                    yield node.lineno, name.name
            case ast.ImportFrom(module=str(base), names=names, level=0):
                for name in names:
                    yield node.lineno, f'{base}.{name.name}'


def room_of(name: str) -> str | None:
    """The room that a module is in: '' for the package, None outside of it."""
    package, _, rest = name.partition('.')
    return rest.split('.')[0] if package == PACKAGE else None


def may_import(room: str, other: str) -> bool:
    """Whether a room may import from another one.

    :raises ValueError: one of them has no place in ROOMS
    """
    if other in ('', room):
        return True
    # The package itself is below all of its rooms.
    return room != '' and ROOMS.index(other) < ROOMS.index(room)


def way_back(module: Module, target: str) -> list[str]:
    """The modules by which an import leads back to the module that has it.

    :returns: from the imported module to `module`; [] if it does not
    """
    start = _existing(module.root, target)
    ways, seen = collections.deque([[start]]), {start}
    while ways:
        way = ways.popleft()
        if way[-1] == module.name:
            return way
        for name in _imports_of(module.root, way[-1]) - seen:
            seen.add(name)
            ways.append([*way, name])
    return []


def _existing(root: pathlib.Path, name: str) -> str:
    """The module that an import means; '' if the checkout does not have it.

    What is imported from a module may be a name in it.
    """
    while name and not _file_of(root, name).is_file():
        name = name.rpartition('.')[0]
    return name


def _file_of(root: pathlib.Path, name: str) -> pathlib.Path:
    path = root.joinpath(*name.split('.'))
    return path / '__init__.py' if path.is_dir() else path.with_suffix('.py')


@functools.cache
def _imports_of(root: pathlib.Path, name: str) -> frozenset[str]:
    """The modules of the checkout that a module imports."""
    if not name:
        return frozenset()
    tree = ast.parse(_file_of(root, name).read_bytes())
    return frozenset(_existing(root, target) for _, target in imported(tree))

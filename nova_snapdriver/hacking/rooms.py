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

"""What imports what."""

import ast
from collections.abc import Iterator
import dataclasses
import pathlib

PACKAGE = 'nova_snapdriver'


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

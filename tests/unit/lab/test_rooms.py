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

"""The rooms of the lab, and which of them may import which."""

import ast
import pathlib

import lab

ROOT = pathlib.Path(lab.__file__).parent
# Each may import those before it, and none of its own line.
ROOMS = (('openstack', 'luks'), ('observe', 'command', 'debian13'),
         ('paths', 'faults', 'attacks', 'bench', 'lifecycle', 'matrix'),
         ('test',), ('__main__',))
LEVELS = {room: level for level, rooms in enumerate(ROOMS) for room in rooms}


def imports():
    """Yield (room, imported room) for all imports of the lab's own."""
    for path in ROOT.rglob('*.py'):
        room = path.relative_to(ROOT).with_suffix('').parts[0]
        if room == '__init__':
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.ImportFrom(module='lab', names=names):
                    yield from ((room, name.name) for name in names)
                case ast.ImportFrom(module=str(module)) if (
                        module.startswith('lab.')):
                    yield room, module.split('.')[1]


def test_no_room_imports_one_beside_or_above_it():
    found = {(room, other) for room, other in imports() if room != other}
    assert found
    assert not [one for one in found if LEVELS[one[0]] <= LEVELS[one[1]]]

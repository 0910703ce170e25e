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

"""Each check on code that breaks its rule, and on code that keeps it."""

import ast

import pytest

from nova_snapdriver.hacking import checks
from nova_snapdriver.hacking import rooms


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout with nothing in it, in which flake8 runs."""
    (tmp_path / 'tox.ini').touch()
    monkeypatch.chdir(tmp_path)
    # Its files are read once in the life of a process.
    yield tmp_path


def lines(check, filename, code):
    """The lines that a check reports of a file."""
    found = list(check(ast.parse(code), filename).run())
    assert all(text.startswith(check.code + ' ') for _, _, text, _ in found)
    return [line for line, _, _, _ in found]


PROBING = "\nrun('qemu-img', 'info', path)\n"


@pytest.mark.parametrize('filename, code, expected', [
    ('nova_snapdriver/guest.py', PROBING, [2]),
    ('./lab/paths/run.py', PROBING, [2]),
    ('nova_snapdriver/guest.py', "run('qemu-img', 'info', '-f', form)", []),
    # The tests ask what an image looks like.
    ('tests/unit/test_guest.py', PROBING, []),
])
def test_format_guessed(checkout, filename, code, expected):
    assert lines(checks.FormatGuessed, filename, code) == expected


@pytest.mark.parametrize('filename, code, expected', [
    ('nova_snapdriver/guest.py', 'import asyncio', [1]),
    ('nova_snapdriver/guest.py', '\nfrom eventlet import tpool', [2]),
    ('nova_snapdriver/guest.py', 'def f():\n    import eventlet.patcher', [2]),
    ('nova_snapdriver/guest.py', 'import threading', []),
    ('tests/functional/__init__.py', 'import eventlet', []),
])
def test_event_loop_imported(checkout, filename, code, expected):
    assert lines(checks.EventLoopImported, filename, code) == expected


@pytest.mark.parametrize('filename, code, expected', [
    ('stream/nbd.py', 'from nova_snapdriver import exception', [1]),
    ('stream/nbd.py', 'from nova_snapdriver.capture import export', [1]),
    ('guest.py', 'def f():\n    import nova_snapdriver.capture.live', [2]),
    ('capture/live.py', 'from nova_snapdriver.transfer import process', [1]),
    ('transfer/send.py', 'from nova_snapdriver.recovery import undo', [1]),
    ('cmd/list.py', 'from nova_snapdriver import driver', [1]),
    ('driver.py', 'from nova_snapdriver.hacking import rooms', [1]),
    ('__init__.py', 'from nova_snapdriver import conf', [1]),
    # A room that the order does not have.
    ('attic/box.py', '\nimport os', [1]),
    ('driver.py', '\nfrom nova_snapdriver.attic import box', [2]),
    # Downwards, and within a room.
    ('stream/raw.py', 'from nova_snapdriver.stream import layout', []),
    ('host.py', 'from nova_snapdriver.stream import codec', []),
    ('driver.py', 'from nova_snapdriver.recovery import undo', []),
    ('transfer/process.py', 'import nova_snapdriver', []),
    ('stream/nbd.py', 'import os', []),
])
def test_room_above_imported(checkout, filename, code, expected):
    assert lines(checks.RoomAboveImported, 'nova_snapdriver/' + filename,
                 code) == expected


def test_tests_may_import_any_room(checkout):
    assert lines(checks.RoomAboveImported, 'tests/unit/test_driver.py',
                 'from nova_snapdriver import driver') == []


@pytest.fixture
def modules(checkout):
    """Three modules, of which the last imports the first."""
    package = checkout / 'lab' / 'bench'
    package.mkdir(parents=True)
    (checkout / 'lab' / '__init__.py').touch()
    (package / '__init__.py').touch()
    (package / 'first.py').write_text('from lab.bench import second\n')
    (package / 'second.py').write_text('from lab.bench.third import NAME\n')
    (package / 'third.py').write_text('import lab.bench.first\nNAME = 1\n')
    return package


@pytest.mark.parametrize('name', ['first', 'second', 'third'])
def test_circle_of_imports(modules, name):
    path = modules / f'{name}.py'
    assert lines(checks.CircleOfImports, str(path), path.read_text()) == [1]


def test_circle_is_told(modules):
    tree = ast.parse('from lab.bench import second')
    check = checks.CircleOfImports(tree, str(modules / 'first.py'))
    assert [text for _, text in check.found()] == [
        'circle: lab.bench.first imports lab.bench.second imports '
        'lab.bench.third imports lab.bench.first']


def test_import_of_a_circle_is_in_none(modules):
    """Who looks at the three from outside is no part of it."""
    assert lines(checks.CircleOfImports, 'lab/other.py',
                 'import os\nfrom lab import gone\n'
                 'from lab.bench import first') == []


@pytest.mark.parametrize('filename, code, expected', [
    ('lab/kills.py', 'from nova_snapdriver import driver', [1]),
    ('lab/kills.py', 'import nova_snapdriver', [1]),
    ('lab/kills.py', 'import os\nfrom nova_snapdriver.stream import nbd', [2]),
    ('lab/kills.py', 'from nova_snapdriver import conf, faultpoint', []),
    ('tests/unit/test_nbd.py', 'from nova_snapdriver.stream import nbd', []),
])
def test_lab_imports_product(checkout, filename, code, expected):
    assert lines(checks.LabImportsProduct, filename, code) == expected


@pytest.mark.parametrize('filename, code, expected', [
    ('test_cold.py', 'from tests.functional import test_live', [1]),
    ('test_cold.py', 'from tests.functional.test_live import make_raw', [1]),
    ('test_cold.py', '\nfrom tests.functional import conftest', [2]),
    ('domains.py', 'import tests.functional.test_live', [1]),
    ('test_cold.py', 'from tests.functional import domains', []),
    # Nova's are not ours to move.
    ('worker.py', 'from nova.tests.unit.virt import test_virt_drivers', []),
])
def test_test_imported(checkout, filename, code, expected):
    assert lines(checks.TestImported, 'tests/functional/' + filename,
                 code) == expected


@pytest.mark.parametrize('check', checks.CHECKS)
def test_file_outside_of_a_checkout(check):
    assert rooms.locate('/stdin') is None
    assert lines(check, '/stdin', 'import asyncio') == []

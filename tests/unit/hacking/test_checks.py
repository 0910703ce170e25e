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

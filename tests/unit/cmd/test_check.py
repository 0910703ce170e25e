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

"""The command that checks a host."""

import argparse
import json
import pathlib
import textwrap
from unittest import mock

import pytest

from nova_snapdriver.cmd import base
from nova_snapdriver.cmd import check
from nova_snapdriver.cmd import conffiles
from nova_snapdriver.cmd import register
from nova_snapdriver.compute import checks

TABLE = """\
+-------------------------------+
| Snapshot Driver Check Results |
+-------------------------------+
| Check: Registration           |
| Result: Success               |
| Details: None                 |
+-------------------------------+
| Check: one                    |
| Result: Warning               |
| Details: do this              |
+-------------------------------+
"""


@pytest.fixture
def checked(capsys):
    """Run the command on a host where these checks fail."""
    def call(*failing, json=False, registered=None):
        with (mock.patch.object(conffiles, 'load'),
              mock.patch.object(register, 'find_drivers'),
              mock.patch.object(register, 'check', side_effect=registered),
              mock.patch.object(checks, 'CHECKS', failing)):
            status = check.run(argparse.Namespace(json=json))
        return status, capsys.readouterr().out
    return call


def wrong(level):
    return checks.Check('one', lambda connection: 'do this', level)


def test_nothing(checked):
    status, out = checked()
    assert status == 0
    assert 'Result: Success' in out


def test_table_is_in_the_style_of_nova_status(checked):
    assert checked(wrong(checks.Level.WARNING)) == (1, TABLE)


def test_table_in_the_docs_is_that_of_the_command():
    page = pathlib.Path(__file__).parents[3] / 'doc/source/operations.rst'
    assert textwrap.indent(TABLE, '  ') in page.read_text()


def test_json(checked):
    status, out = checked(wrong(checks.Level.FAILURE), json=True)
    assert status == 2
    assert json.loads(out)['checks'][1] == {
        'check': 'one', 'result': 2, 'details': 'do this'}


def test_driver_that_is_not_registered(checked):
    status, out = checked(registered=base.CommandError('run register'))
    assert status == 2
    assert 'run register' in out


def test_libvirt_that_is_away_is_a_finding(checked):
    with mock.patch('libvirt.open', side_effect=OSError('no socket')):
        status, out = checked(checks.CHECKS[2])
    assert status == 1
    assert 'no socket' in out

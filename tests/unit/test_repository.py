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

"""Rules for the repository that no tool knows.

Those about Python's source are plugins of flake8: nova_snapdriver/hacking.
"""

import ast
import configparser
import pathlib
import re

from oslo_config import cfg
import pytest

from nova_snapdriver.cmd import main
from nova_snapdriver import conf
from nova_snapdriver.hacking import checks
from nova_snapdriver.hacking import formats
from nova_snapdriver.hacking import rooms

ROOT = pathlib.Path(__file__).parents[2]
UNITS = re.compile(r'\b(seconds|bytes|[KMG]iB|percent)\b')


def sources():
    return [path for folder in ('nova_snapdriver', 'lab', 'tests')
            for path in sorted((ROOT / folder).rglob('*.py'))]


@pytest.mark.parametrize('check', checks.CHECKS)
def test_sources_pass(check):
    """The plugins of flake8, where only the tests are run."""
    found = [f'{path}:{line}: {text}' for path in sources()
             for line, _, text, _ in check(ast.parse(path.read_bytes()),
                                           str(path)).run()]
    assert not found


def test_flake8_and_hacking_rst_have_every_check():
    settings = configparser.ConfigParser()
    settings.read(ROOT / 'tox.ini')
    extension = settings['flake8:local-plugins']['extension']
    assert extension.strip().splitlines() == [
        f'{check.code} = {check.__module__}:{check.__qualname__}'
        for check in checks.CHECKS]
    listed = re.findall(r'\[(S\d+)\]', (ROOT / 'HACKING.rst').read_text())
    assert listed == [check.code for check in checks.CHECKS]


CONTRIBUTOR = (ROOT / 'doc/source/contributor.rst').read_text()
PATH = re.compile(r'\b(?:nova_snapdriver|lab|tests|etc|doc)/[\w./-]*\w')


def paths_for_contributors():
    """Those that the page names, with the two files that it includes."""
    text = '\n'.join([CONTRIBUTOR, (ROOT / 'HACKING.rst').read_text(),
                      (ROOT / 'CONTRIBUTING.rst').read_text()])
    return sorted(set(PATH.findall(text)))


@pytest.mark.parametrize('path', paths_for_contributors())
def test_path_on_the_contributors_page_exists(path):
    assert (ROOT / path).exists()


REPORTS = (ROOT / 'doc/source/field-reports.rst').read_text()


def reported():
    """The test that each row names."""
    return re.findall(r'^     - ``(tests/\S+)::(\w+)``$', REPORTS,
                      re.MULTILINE)


@pytest.mark.parametrize('file, name', sorted(set(reported())))
def test_test_of_a_field_report_exists(file, name):
    assert re.search(rf'^ *def {name}\(', (ROOT / file).read_text(),
                     re.MULTILINE)


def test_field_reports_have_a_link_and_a_test_each():
    rows = re.findall(r'^   \* - (.*)$', REPORTS, re.MULTILINE)
    links = [row for row in rows if re.fullmatch(r'`.+ <https://\S+>`__', row)]
    assert len(links) == len(reported()) >= 30
    assert set(rows) - set(links) == {'Report'}


def test_manual_has_every_command():
    page = (ROOT / 'doc/source/cli.rst').read_text()
    assert re.findall(r':func: (\w+)', page) == list(main.COMMANDS)
    assert re.findall(r':prog: nova-snapdriver (\w+)', page) == list(
        main.COMMANDS)


def test_contributors_page_lists_the_rooms_in_their_order():
    table = re.findall(r'^nova_snapdriver/(\w+)', CONTRIBUTOR, re.MULTILINE)
    assert table == [room for room in rooms.ROOMS if room in table]
    there = {path.stem for path in (ROOT / 'nova_snapdriver').glob('*')
             if path.suffix in ('', '.py')} - {'__init__', '__pycache__'}
    assert there == set(table)


def scripts():
    """The files that a shell runs."""
    return [path for folder in ('lab', '.ci', 'etc', 'tests')
            for path in (ROOT / folder).rglob('*')
            if path.is_file() and path.suffix in ('', '.sh')]


def test_scripts_tell_qemu_programs_the_format():
    assert ROOT / 'lab' / 'run' in scripts()
    found = [f'{path}:{line}' for path in scripts()
             for line in formats.guessed_in_shell(path.read_text())]
    assert not found


def test_no_nova_directory():
    """A namespace package there would hide parts of an editable Nova."""
    assert not (ROOT / 'nova').exists()
    assert not (ROOT / 'nova_snapdriver' / 'nova').exists()


def options():
    return [pytest.param(option, id=option.name)
            for _, group in conf.list_opts() for option in group]


@pytest.mark.parametrize('option', options())
def test_option_is_documented(option):
    assert option.help and option.help.strip()
    if isinstance(option.type, (cfg.types.Integer, cfg.types.Float)):
        assert UNITS.search(option.help), 'its unit is not in its help'

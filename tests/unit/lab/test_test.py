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

"""The sum of several runs of pytest."""

import argparse
import collections
import pathlib
import sys

import pytest

from lab.openstack import settings
from lab import test


@pytest.mark.parametrize('line, expected', [
    ('958 passed, 2 skipped, 7 xfailed in 2170.72s (0:36:10)',
     {'passed': 958, 'skipped': 2, 'xfailed': 7}),
    ('1 failed, 3 passed, 1 warning, 6 errors in 0.50s',
     {'failed': 1, 'passed': 3, 'warning': 1, 'error': 6}),
    ('no tests ran in 0.01s', {})])
def test_outcomes(line, expected):
    assert test.outcomes(f'3 passed before\n{line}\n') == expected
    assert test.outcomes(f'{line}\nOK\n{line}') == {
        name: 2 * count for name, count in expected.items()}


def test_outcomes_of_no_output():
    assert test.outcomes('') == {}


def test_closing_line_is_as_pytest_has_it():
    counts = collections.Counter(test.outcomes('1 failed, 2 passed in 1s'))
    counts.update(test.outcomes('40 passed, 1 error, 3 xfailed in 1s'))
    assert test.closing_line(counts, 75.5) == (
        '1 failed, 42 passed, 3 xfailed, 1 error in 75.50s (0:01:15)')
    assert test.closing_line(collections.Counter(), 1.0) == (
        'no tests ran in 1.00s (0:00:01)')


@pytest.mark.parametrize('statuses, expected', [
    ([0, 0], 0), ([0, 1], 1), ([2, 0], 2), ([0, 5], 0), ([5, 5], 5),
    ([-11, 0], 11)])
def test_verdict_is_the_worst(statuses, expected):
    assert test.verdict(statuses) == expected


@pytest.fixture
def chosen(tmp_path):
    """Gives the names and the words of what runs, by groups."""
    root = pathlib.Path(test.__file__).parents[1]
    conf = settings.Settings(tmp_path, root, '')

    def call(*words, **flags):
        groups = test.runs(conf, argparse.Namespace(
            pytest=list(words), **({'quick': False, 'matrix': False} | flags)))
        return [{one.name: one.argv[5:] for one in group} for group in groups]
    return call


def test_unit_tests_come_first_and_the_others_side_by_side(chosen):
    first, others = chosen('-k', 'freeze')
    assert list(first) == ['unit'] and list(others) == ['functional', 'e2e']
    for words in (*first.values(), *others.values()):
        assert words[-2:] == ['-k', 'freeze']


def test_quick_takes_what_is_marked_beside_all_unit_tests(chosen):
    first, others = chosen(quick=True)
    assert 'quick' not in first['unit']
    assert all('quick' in words for words in others.values())


def test_files_are_run_alone(chosen):
    words = ['tests/functional', '-k', 'freeze']
    assert chosen(*words) == [{'chosen': ['--durations=15', *words]}]
    assert list(chosen('tests/unit/lab/test_test.py::test_outcomes')[0]) == [
        'chosen']


@pytest.mark.parametrize('script, status', (
    ('print("2 passed in 1.00s")', 0),
    ('print("1 failed, 1 passed in 2.50s (0:00:02)"); raise SystemExit(1)',
     1)))
def test_what_runs_is_shown_whole_and_counted(script, status, tmp_path,
                                              capsys):
    (tmp_path / 'venv/bin').mkdir(parents=True)
    conf = settings.Settings(tmp_path, tmp_path, '')
    runs = [test.Run(name, [sys.executable, '-c', script], tmp_path / name)
            for name in ('one', 'two')]
    counts = collections.Counter()
    assert test._side_by_side(conf, runs, counts) == [status] * 2
    assert counts['passed'] == (4 if status == 0 else 2)
    assert capsys.readouterr().out.count(' passed in ') == 2

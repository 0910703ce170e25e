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

import pathlib

import pytest

from lab import debian13
from lab.openstack import settings


def test_a_folder_that_is_something_else_is_left_alone(tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(settings.LabError, match='not empty'):
        debian13.make(tmp_path, tmp_path / 'log')
    assert [path.name for path in tmp_path.iterdir()] == ['file']


def test_one_that_is_there_is_not_made_again(tmp_path):
    (tmp_path / debian13.MARKER).touch()
    debian13.make(tmp_path, tmp_path / 'log')
    assert not (tmp_path / 'log').exists()


@pytest.mark.parametrize('network', (True, False))
def test_tests_have_no_network(network):
    words = debian13.entering(pathlib.Path('/folder'), pathlib.Path('/here'),
                              'test', network)
    assert ('--net' in words) != network
    assert {'--mount', '--pid', '--kill-child'} < set(words)


def test_the_machine_is_never_mounted_over():
    """But for the folder itself: all else is relative to it."""
    for line in debian13.ENTER.splitlines():
        words = line.split()
        if words[:1] == ['mount'] and words[1] != '--make-rprivate':
            assert not words[-1].startswith('/')
    # Before any of it, and whatever fails is the end.
    lines = debian13.ENTER.strip().splitlines()
    assert lines[0] == 'set -eu'
    assert lines[3] == 'mount --make-rprivate /'


def test_every_action_is_known():
    assert set(debian13.ACTIONS) == {'install', 'test', 'demo'}

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

"""How "nova-snapdriver snapshot" refuses, and what it says of errors."""

import os

import pytest

from nova_snapdriver.cmd import main
from nova_snapdriver.cmd import snapshot


@pytest.mark.parametrize('words', (
    ('web',), ('web', '--output', 'x', '--image', 'y'),
    ('web', '--output', 'x', '--method', 'cold')))
def test_wrong_usage_is_status_2(words):
    with pytest.raises(SystemExit) as stopped:
        main.main(['snapshot', *words])
    assert stopped.value.code == 2


def test_no_root(monkeypatch, capsys):
    monkeypatch.setattr(os, 'geteuid', lambda: 1000)
    assert main.main(['snapshot', 'web', '--output', 'x']) == 1
    assert 'run this as root' in capsys.readouterr().err


def test_raw_images_are_not_compressed(monkeypatch, capsys):
    monkeypatch.setattr(os, 'geteuid', lambda: 0)
    assert main.main(['snapshot', 'web', '--output', 'x', '--format', 'raw',
                      '--compression', 'zlib']) == 1
    assert 'qcow2 alone' in capsys.readouterr().err


@pytest.mark.parametrize('error', snapshot._MESSAGES)
def test_errors_name_no_option_of_nova(error):
    said = snapshot._explained(error(reason='50% of it'))
    assert '50% of it' in said
    assert '[' not in said and 'nova.conf' not in said

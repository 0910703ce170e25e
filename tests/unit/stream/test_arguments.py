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

import dataclasses

import hypothesis
from hypothesis import strategies
import pytest

from nova_snapdriver.stream import arguments

TEXTS = strategies.text(min_size=1).filter(lambda text: text[0] != '-')
NUMBERS = strategies.integers(-1 << 63, 1 << 63)
VALUES = {
    'socket': TEXTS, 'format': strategies.sampled_from(('qcow2', 'raw')),
    'export': strategies.just('') | TEXTS, 'hash': TEXTS,
    'compression': strategies.sampled_from((None, 'zlib', 'zstd')),
    'threads': NUMBERS, 'place': NUMBERS,
    'harder_from': strategies.none() | NUMBERS,
    'stall_timeout': strategies.floats(0, 1e9), 'bandwidth': NUMBERS,
    'spool': strategies.none() | TEXTS, 'spool_limit': NUMBERS,
    'spool_reserve': NUMBERS, 'captured': strategies.none() | NUMBERS,
    **dict.fromkeys(('rbd_pool', 'rbd_image', 'rbd_user', 'rbd_conf'),
                    strategies.just('') | TEXTS),
    'rbd_stall_timeout': strategies.floats(0, 1e9),
    'rbd_verify': strategies.booleans(),
}
LEAST = arguments.Arguments(socket='/nbd', format='raw')


@hypothesis.given(strategies.fixed_dictionaries(VALUES))
def test_what_is_built_is_parsed(values):
    told = arguments.Arguments(**values)
    assert arguments.parse(arguments.build(told)) == told


def test_every_option_is_tried():
    assert set(VALUES) == {
        field.name for field in dataclasses.fields(arguments.Arguments)}


def test_defaults_are_not_said():
    assert arguments.build(LEAST) == ['--socket', '/nbd', '--format', 'raw']


@pytest.mark.parametrize('words', (
    [], ['--socket', '/nbd'], ['--format', 'raw'],
    ['--socket', '/nbd', '--format', 'vdi'],
    ['--socket', '/nbd', '--format', 'raw', '--threads', 'many'],
    ['--socket', '/nbd', '--format', 'raw', '--unknown', '1']))
def test_what_makes_no_sense_is_refused(words, capsys):
    with pytest.raises(SystemExit) as refused:
        arguments.parse(words)
    assert refused.value.code == 2
    assert 'usage: python -m nova_snapdriver.stream' in capsys.readouterr().err


def test_help_names_every_option(capsys):
    with pytest.raises(SystemExit) as helped:
        arguments.parse(['--help'])
    assert helped.value.code == 0
    told = capsys.readouterr().out
    for name in VALUES:
        assert '--' + name.replace('_', '-') in told

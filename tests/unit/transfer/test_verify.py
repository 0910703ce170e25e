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

from unittest import mock

import pytest

from nova_snapdriver import exception
from nova_snapdriver.transfer import hashes
from nova_snapdriver.transfer import verify

SENT = verify.Sent('sha512', 65536, 'cafe', mock.Mock())
STORED = {'status': 'active', 'size': 65536, 'os_hash_algo': 'sha512',
          'os_hash_value': 'cafe'}


def test_what_was_sent_is_there():
    verify.verify(STORED, SENT, True)


@pytest.mark.parametrize('name, value, words', (
    ('status', 'queued', 'status is queued'),
    ('status', 'saving', 'status is saving'),
    ('size', 65535, 'size is 65535 and should be 65536'),
    ('size', None, 'size is None'),
    ('os_hash_value', 'beef', 'hash is beef'),
    ('os_hash_value', None, 'hash is None'),
    ('os_hash_algo', None, 'no hash'),
    ('os_hash_algo', 'whirl-o-matic', 'whirl-o-matic is not known')))
def test_what_is_not_is_an_error(name, value, words):
    with pytest.raises(exception.VerifyFailed, match=words):
        verify.verify(STORED | {name: value}, SENT, True)
    assert hashes.choose(lambda: {'os_hash_algo': 'md5'}) == 'md5'


def test_without_hashes_status_and_size_are_compared_all_the_same():
    verify.verify(STORED | {'os_hash_value': 'beef'}, SENT, False)
    with pytest.raises(exception.VerifyFailed):
        verify.verify(STORED | {'size': 1}, SENT, False)


@pytest.mark.parametrize('digest, algorithm', (
    ('cafe', 'sha256'), (None, 'sha512')))
def test_hash_that_is_not_known_is_computed_from_the_export(digest,
                                                            algorithm):
    again = mock.Mock(return_value='beef')
    verify.verify(
        STORED | {'os_hash_algo': algorithm, 'os_hash_value': 'beef'},
        verify.Sent('sha512', 65536, digest, again), True)
    again.assert_called_once_with(algorithm)
    assert hashes.choose(dict) == algorithm

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

from nova_snapdriver.transfer import hashes


def choose(**image):
    return hashes.choose(lambda: image)


@pytest.mark.parametrize('algorithm, expected', (
    ('sha256', 'sha256'), ('sha512', 'sha512'), (None, 'sha512'),
    ('whirl-o-matic', 'sha512'), ('shake_128', 'sha512'), (['a'], 'sha512')))
def test_hash_of_the_base_image(algorithm, expected):
    assert choose(os_hash_algo=algorithm) == expected


def test_base_image_that_is_deleted():
    assert hashes.choose(mock.Mock(side_effect=OSError)) == 'sha512'
    assert choose() == 'sha512'


def test_hash_of_the_last_image_is_learned():
    hashes.learn('sha256')
    base = mock.Mock()
    assert hashes.choose(base) == 'sha256'
    base.assert_not_called()
    hashes.learn('md5')
    assert hashes.choose(base) == 'md5'

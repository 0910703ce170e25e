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

"""Learns which hash Glance computes.

Glance's API does not say it, but each of its images does. The hash is computed
while an image is sent: with the wrong one, the disk is read a second time.
"""

from collections.abc import Callable
import hashlib
from typing import Any
from typing import TypeGuard

from oslo_log import log as logging

LOG = logging.getLogger(__name__)

# Of Glance's option hashing_algorithm.
_DEFAULT = 'sha512'

# Of the last image that this process has verified.
_learned: str | None = None


def learn(algorithm: str) -> None:
    """Note the hash that Glance has computed of an image."""
    global _learned
    _learned = algorithm


def choose(base: Callable[[], dict[str, Any]]) -> str:
    """The hash that Glance is going to compute, as far as is known.

    :param base: gets the image that the server was made from, as Nova's image
        API gives it; called until an image was verified. What it raises does
        not matter: the image may be deleted.
    """
    if _learned is not None:
        return _learned
    try:
        algorithm = base().get('os_hash_algo')
    except Exception as ex:
        LOG.debug('Cannot see which hash the base image has: %s', ex)
        return _DEFAULT
    return algorithm if is_known(algorithm) else _DEFAULT


def is_known(algorithm: object) -> TypeGuard[str]:
    """Whether hashlib has it, with a fixed length (SHAKE has none)."""
    return (isinstance(algorithm, str) and
            algorithm in hashlib.algorithms_available and
            hashlib.new(algorithm).digest_size > 0)

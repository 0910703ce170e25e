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

"""Compare the image that Glance holds with what was sent."""

from collections.abc import Callable
import dataclasses
from typing import Any

from oslo_log import log as logging

from nova_snapdriver import exception
from nova_snapdriver import journal
from nova_snapdriver.transfer import hashes

LOG = logging.getLogger(__name__)

_MAX_VALUE = 200        # characters, two of the longest hashes in hex


@dataclasses.dataclass(frozen=True)
class Sent:
    """What was sent.

    :param algorithm: of the hash; None for no hash
    :param digest: hash of the whole image, in hex; None if the connection
        broke before the stream came to its end
    :param again: reads the disk again for the hash of a given algorithm
    """

    algorithm: str | None
    length: int
    digest: str | None
    again: Callable[[str], str | None]


def verify(stored: dict[str, Any], sent: Sent, hashes: bool) -> None:
    """Make sure that an image is active and what was sent.

    :param stored: the image, as Nova's image API gives it
    :param hashes: compare the hashes too, not just the status and the size
    :raises VerifyFailed: they differ, or the image is not active
    """
    _same('status', stored.get('status'), 'active')
    _same('size', stored.get('size'), sent.length)
    if hashes:
        _verify_hash(stored, sent)


def arrived(stored: dict[str, Any], whole: journal.Whole | None) -> bool:
    """Whether an active image is what was sent, by the journal's record.

    :param stored: the image, as Nova's image API gives it
    :param whole: what was sent; None if not all of it was
    """
    if whole is None or stored.get('size') != whole.length:
        return False
    return (stored.get('os_hash_algo') != whole.algorithm or
            stored.get('os_hash_value') == whole.digest)


def _same(what: str, found: object, expected: object) -> None:
    if found != expected:
        raise exception.VerifyFailed(
            reason='its %s is %s and should be %s' %
                   (what, _short(found), expected))


def _short(found: object) -> str:
    """A value as text, of at most 200 characters."""
    return str(found)[:_MAX_VALUE]


def _verify_hash(stored: dict[str, Any], sent: Sent) -> None:
    algorithm = stored.get('os_hash_algo')
    if not algorithm:
        raise exception.VerifyFailed(
            reason='it gives no hash of the image, and [snapdriver] verify '
                   'asks for one')
    if not hashes.is_known(algorithm):
        raise exception.VerifyFailed(
            reason='its hash %s is not known here' % _short(algorithm))
    digest = sent.digest
    if digest is None or algorithm != sent.algorithm:
        LOG.warning('Reading the disk again to verify the image with '
                    '%(theirs)s: it was sent with %(ours)s',
                    {'theirs': algorithm, 'ours': sent.algorithm})
        digest = sent.again(algorithm)
    _same('hash', stored.get('os_hash_value'), digest)
    hashes.learn(algorithm)

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

"""What a place to send an image to has to be able to do."""

from typing import Any
from typing import Protocol

from nova_snapdriver.transfer import body as image_body
from nova_snapdriver.transfer import verify as snap_verify


class Destination(Protocol):
    """An image to be, in Glance or elsewhere; see ``image.Image``.

    :func:`nova_snapdriver.transfer.send.send` calls describe(), upload() and
    verify() once each, in this order, and close() whatever happened. Its log
    says ``id``.
    """

    id: str

    def describe(self, metadata: dict[str, Any]) -> None:
        """Set the metadata of the image.

        Called while the disk is mapped and sampled, before the first byte.

        :param metadata: of the image, as Nova's image API takes it
        :raises SnapdriverError: it cannot be set
        """

    def upload(self, body: image_body.ImageBody) -> None:
        """Take the whole image; iterate over it again after a failure.

        Also after Outgrown, which happens at most twice: then prepare the
        body first, as its length has changed.

        :raises SnapdriverError: it was not taken
        """

    def verify(self, sent: snap_verify.Sent, hashes: bool) -> None:
        """Compare what arrived with what was sent.

        :param hashes: compare the hashes too, not just the sizes
        :raises VerifyFailed: they differ
        """

    def cancel(self) -> None:
        """Make describe() and upload() fail at once.

        Called from another thread, and more than once.
        """

    def close(self) -> None:
        """Release what it holds. The image stays as it is."""

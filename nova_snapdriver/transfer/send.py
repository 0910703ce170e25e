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

"""Stream an export to a destination, and verify what arrived."""

from collections.abc import Callable
import contextlib
import dataclasses
from typing import Any

from oslo_log import log as logging
from oslo_utils import timeutils
from oslo_utils import units

from nova_snapdriver import faultpoint
from nova_snapdriver import journal
from nova_snapdriver import metrics
from nova_snapdriver.transfer import body as image_body
from nova_snapdriver.transfer import cancel
from nova_snapdriver.transfer import destination
from nova_snapdriver.transfer import process
from nova_snapdriver.transfer import verify

LOG = logging.getLogger(__name__)

# Between two updates of the journal, for "nova-snapdriver list".
_NOTE_SECONDS = 1


@dataclasses.dataclass(frozen=True)
class Settings:
    """How to verify and report, from nova.conf.

    :param hashes: [snapdriver] verify
    :param progress_interval: seconds between two lines in the log
    :param sent: called with the bytes sent and the length of the image
    :param meter: where the bytes and the phases are noted
    """

    hashes: bool
    progress_interval: int
    sent: Callable[[int, int], None] = lambda done, length: None
    meter: metrics.Meter = dataclasses.field(default_factory=metrics.Meter)


class _Progress:
    """Reports how far an upload is, in the log and in the journal."""

    def __init__(self, image_id: str, record: journal.Record,
                 settings: Settings) -> None:
        self._image_id = image_id
        self._record = record
        self._sent = settings.sent
        self._meter = settings.meter
        self._done = 0
        self._watch = timeutils.StopWatch().start()
        self._note = timeutils.StopWatch(_NOTE_SECONDS).start()
        self._log = timeutils.StopWatch(settings.progress_interval).start()

    def __call__(self, done: int, length: int) -> None:
        self._reach(done, length)
        self._sent(done, length)
        if self._note.expired():
            self._note.restart()
            self._record.progress(done, length)
        if self._log.expired():
            self._log.restart()
            self._say(done, length, 'uploaded')

    def _reach(self, done: int, length: int) -> None:
        if not self._done:
            self._meter.begin(metrics.Phase.UPLOAD)
            faultpoint.reach('upload.first')
        if self._done < length // 2 <= done:
            faultpoint.reach('upload.middle')
        # An attempt that begins again counts from 0.
        self._meter.bytes_sent += done - (self._done
                                          if done >= self._done else 0)
        self._done = done

    def again(self, done: int, length: int) -> None:
        """Report a second read of the disk, for another hash."""
        if self._note.expired():
            self._note.restart()
            self._record.progress(done, length)
        if self._log.expired():
            self._log.restart()
            self._say(done, length, 'read again')

    def _say(self, done: int, length: int, what: str) -> None:
        LOG.info('Image %(image)s: %(done)d of %(all)d MiB %(what)s '
                 '(%(percent)d%%) after %(seconds)d s',
                 {'image': self._image_id, 'done': done // units.Mi,
                  'all': length // units.Mi, 'what': what,
                  'percent': 100 * done // length,
                  'seconds': self._watch.elapsed()})


def send(image: destination.Destination, metadata: dict[str, Any],
         request: process.Request, record: journal.Record,
         settings: Settings, watch: cancel.Watch) -> int:
    """Upload an image of the export and make sure that it arrived.

    Blocks in reads of pipes: in eventlet mode, call it in a native thread.

    :param image: where it goes
    :param metadata: of the image, as Nova's image API takes it
    :param record: of the snapshot, where the progress is noted
    :param watch: may cancel it
    :returns: the length of the image in bytes
    :raises StreamFailed: the disk could not be read
    :raises UploadFailed: the destination did not take it (or one of Nova's
        exceptions, see :class:`nova_snapdriver.transfer.image.Image`)
    :raises VerifyFailed: the destination does not hold what was sent
    """
    progress = _Progress(image.id, record, settings)

    def note(length: int, digest: str | None) -> None:
        record.note_whole(journal.Whole(length, request.algorithm, digest))

    with (contextlib.closing(image),
          image_body.ImageBody(request, progress, note, progress.again,
                               settings.meter) as body,
          watch.ending(image.cancel, body.cancel)):
        settings.meter.begin(metrics.Phase.LAYOUT)
        # Meanwhile the stream process maps the disk and samples it.
        image.describe(metadata)
        faultpoint.reach('image.described')
        image.upload(body)
        faultpoint.reach('upload.answered')
        settings.meter.begin(metrics.Phase.VERIFY)
        sent = verify.Sent(request.algorithm, body.length, body.digest,
                           body.hash_again)
        image.verify(sent, settings.hashes)
        faultpoint.reach('upload.verified')
        return body.length

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

"""One line for each snapshot in the log, for programs that count.

Under a logger of its own, ``nova_snapdriver.metrics``, at INFO. Its words are
``key=value``, always the same and in the same order: a value that is not known
is ``-``, a number 0.
"""

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import enum
import time
from typing import Any

from nova import exception as nova_exception
from oslo_log import log as logging

from nova_snapdriver import exception
from nova_snapdriver import plan

LOG = logging.getLogger(__name__)

_UNKNOWN = '-'
#: Destinations.
GLANCE, RBD = 'glance', 'rbd'

# A snapshot that ends with one of these was not wanted any more.
_CANCELLED = (exception.Cancelled, nova_exception.ImageNotFound,
              nova_exception.InstanceNotFound)


class Phase(enum.StrEnum):
    """What a snapshot does, in this order."""

    #: For its turn, and for Nova's database and the journal.
    WAIT = 'wait'
    PLAN = 'plan'
    #: Until the disk is held still. On the direct path Ceph copies it.
    CAPTURE = 'capture'
    #: Until the first byte: the disk is mapped, and sampled to compress it.
    LAYOUT = 'layout'
    #: On the stock path all that Nova's own snapshot does.
    UPLOAD = 'upload'
    VERIFY = 'verify'
    #: Until the job has ended and the files are removed.
    RELEASE = 'release'


class Meter:
    """Collects the figures of one snapshot.

    :param clock: gives seconds
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = self._entered = clock()
        self._phase = Phase.WAIT
        self._seconds = dict.fromkeys(Phase, 0.0)
        self.path: str = _UNKNOWN
        self.destination = self.consistency = _UNKNOWN
        self.freeze_seconds = 0.0
        #: Bytes of the disk that were read, by passes that ended well.
        self.bytes_read = 0
        #: Bytes of the image that were sent, all attempts together.
        self.bytes_sent = 0
        self.scratch_peak = 0
        #: Requests to the destination that were made again.
        self.retries = 0

    def begin(self, phase: Phase) -> None:
        """Begin another phase; idempotent."""
        now = self._clock()
        self._seconds[self._phase] += now - self._entered
        self._phase, self._entered = phase, now

    def planned(self, chosen: plan.Plan) -> None:
        """Note the path and the destination; another plan replaces them."""
        into_ceph = chosen.stored or chosen.path is plan.Path.DIRECT
        self.path = chosen.path
        self.destination = RBD if into_ceph else GLANCE

    def captured(self, consistency: str, freeze_seconds: float) -> None:
        """Note how the disk was captured."""
        self.consistency = consistency
        self.freeze_seconds = freeze_seconds

    def note_scratch(self, used: int) -> None:
        """Note how many bytes the scratch directory's files take."""
        self.scratch_peak = max(self.scratch_peak, used)

    def line(self, error: BaseException | None = None) -> str:
        """The figures, as they are in the log.

        :param error: what the snapshot ended with; none if it succeeded
        """
        self.begin(self._phase)
        words: dict[str, object] = {
            'result': _result(error),
            'error': type(error).__name__ if error else _UNKNOWN,
            'phase': self._phase if error else 'done',
            'path': self.path,
            'destination': self.destination,
            'consistency': self.consistency,
            'bytes_read': self.bytes_read,
            'bytes_sent': self.bytes_sent,
            'scratch_peak_bytes': self.scratch_peak,
            'retries': self.retries,
            'freeze_seconds': '%.3f' % self.freeze_seconds,
            **{f'{phase}_seconds': '%.3f' % seconds
               for phase, seconds in self._seconds.items()},
            'total_seconds': '%.3f' % (self._entered - self._began)}
        return ' '.join(f'{key}={value}' for key, value in words.items())


def _result(error: BaseException | None) -> str:
    if error is None:
        return 'success'
    return 'cancelled' if isinstance(error, _CANCELLED) else 'failure'


@contextlib.contextmanager
def logged(meter: Meter, instance: Any, image_id: str) -> Iterator[None]:
    """Log the figures of a snapshot at the end of the block."""
    error: BaseException | None = None
    try:
        yield
    except BaseException as ex:
        error = ex
        raise
    finally:
        LOG.info('Snapshot metrics: image=%(image)s %(figures)s',
                 {'image': image_id, 'figures': meter.line(error)},
                 instance=instance)

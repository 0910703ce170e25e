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

"""Wait for what sends no event, and try again what may work later."""

from collections.abc import Callable
import time
from typing import Any
from typing import TypeVar

from oslo_log import log as logging
from oslo_utils import timeutils

LOG = logging.getLogger(__name__)

_Result = TypeVar('_Result')
_Errors = tuple[type[Exception], ...]


def wait_until(ready: Callable[[], object], seconds: float,
               poll: float) -> bool:
    """Poll a condition until it holds, or until a time limit.

    Works in both of Nova's concurrency modes: eventlet replaces time.sleep(),
    so it is looked up at each call.

    :param ready: the condition. It is asked at once, after each pause, and
        once more after the limit; an exception that it raises ends the wait.
    :param seconds: time limit
    :param poll: seconds between two calls of ``ready``
    :returns: whether it became ready; the caller raises if not
    """
    deadline = timeutils.StopWatch(seconds).start()
    while not ready():
        if deadline.expired():
            return False
        time.sleep(poll)
    return True


def retry(call: Callable[[], _Result], what: str, instance: Any, *,
          errors: _Errors, final: _Errors = (), attempts: int,
          pause: float) -> _Result:
    """Call a function until it raises none of these errors, a few times.

    :param what: what the function does, for the log: "Thawing"
    :param errors: another attempt can help with these
    :param final: no other attempt helps with these, though they are errors
        of a class that is among ``errors``
    :param attempts: how often it is called at most
    :param pause: seconds between two attempts
    :raises Exception: the last attempt's error, or one that is not to be
        retried
    """
    attempt = 0
    while True:
        attempt += 1
        try:
            return call()
        except final:
            raise
        except errors as ex:
            LOG.warning('%(what)s failed, attempt %(attempt)d of %(all)d: '
                        '%(error)s', {'what': what, 'attempt': attempt,
                                      'all': attempts, 'error': ex},
                        instance=instance)
            if attempt >= attempts:
                raise
        time.sleep(pause)

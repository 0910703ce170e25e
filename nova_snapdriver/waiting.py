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

"""Wait for what sends no event, by asking again and again."""

from collections.abc import Callable
import time

from oslo_utils import timeutils


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

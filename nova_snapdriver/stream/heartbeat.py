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

"""Say that the process lives, and end it when nobody waits for it any more."""

from collections.abc import Callable
import contextlib
import os
import select
import threading

_BEAT_SECONDS = 5

_GONE = select.POLLERR | select.POLLHUP | select.POLLNVAL


def begin(say: Callable[..., None], pipe: int, messages: int,
          leaving: Callable[[], None] = lambda: None) -> None:
    """Say ``alive`` every few seconds from now on, in a thread.

    The process ends, with an error, once nobody reads the image any more, and
    when one of its threads dies: the others would wait for it for ever.

    :param say: called with the name of an event and its values
    :param pipe: file descriptor, where the image leaves
    :param messages: file descriptor, where events leave
    :param leaving: called before the process is ended
    """
    def end(message: str) -> None:
        # Not by an exception: the main thread may be stuck in libnbd, and
        # there may be no memory.
        with contextlib.suppress(Exception):
            if _has_room(messages):
                say('error', message=message)
            leaving()
        os._exit(1)

    def beat() -> None:
        while not _gone(pipe):
            # A beat that nobody reads must not wait.
            if _has_room(messages):
                say('alive')
        end('nobody reads the image any more')

    threading.excepthook = lambda died: end(
        'a thread died: %r' % (died.exc_value or died.exc_type))
    threading.Thread(target=beat, daemon=True).start()


def _gone(pipe: int) -> bool:
    """Whether the pipe's reader is gone, within the time of a beat."""
    poller = select.poll()
    poller.register(pipe, 0)
    return any(event & _GONE for _, event in
               poller.poll(_BEAT_SECONDS * 1000))


def _has_room(messages: int) -> bool:
    poller = select.poll()
    poller.register(messages, select.POLLOUT)
    return bool(poller.poll(0))

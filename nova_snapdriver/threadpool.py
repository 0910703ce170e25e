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

"""Native threads for what blocks, where nova-compute runs under eventlet.

Eventlet has twenty native threads, and each of Nova's calls of libvirt needs
one while it lasts. An upload would hold one until it is done, and twenty of
them would keep Nova, and what guards a guest, from libvirt. So these threads
are apart. There are as many as there ever were calls at a time.
"""

import collections
from collections.abc import Callable
import functools
import os
import select
from typing import Any

from nova_snapdriver import compat

# Of each thread that waits: the queue that it takes its next call from.
_idle: collections.deque[Any] = collections.deque()


class _Call:
    """A function that one thread calls, and another one waits for."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function
        self._result: Any = None
        self._error: BaseException | None = None
        # A green thread can wait for a pipe, and for no native thread.
        self._done, self._doing = os.pipe()

    def run(self) -> None:
        try:
            self._result = self._function()
        except BaseException as ex:
            self._error = ex

    def end(self) -> None:
        os.close(self._doing)

    def wait(self) -> Any:
        """:raises BaseException: what the function raised"""
        try:
            select.select([self._done], [], [])
        finally:
            os.close(self._done)
        if self._error is not None:
            raise self._error
        return self._result


def call(function: Callable[..., Any], *args: Any) -> Any:
    """Call a function: in a native thread of our own, under eventlet.

    It must not call libvirt as Nova does, nor wait for a green thread.
    """
    tpool = compat.tpool()
    if tpool is None:
        return function(*args)
    work = _Call(functools.partial(function, *args))
    try:
        queue = _idle.pop()
    except IndexError:
        queue = _start(tpool)
    queue.put(work)
    return work.wait()


def _start(tpool: Any) -> Any:
    """Start a native thread; returns the queue of what it is to call."""
    queue = tpool.Queue()
    tpool.threading.Thread(target=_serve, args=(queue,), daemon=True,
                           name='snapdriver').start()
    return queue


def _serve(queue: Any) -> None:
    while True:
        work = queue.get()
        work.run()
        _idle.append(queue)
        work.end()
        del work                        # and what it holds

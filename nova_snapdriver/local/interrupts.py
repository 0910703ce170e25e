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

"""Note Ctrl-C, and end a snapshot in order.

A KeyboardInterrupt anywhere would end it like a crash: its entry would stay in
the journal. The signal is noted instead, and asked for where the snapshot
waits.
"""

import signal
import types
from typing import Any
from typing import Self

from nova_snapdriver import exception

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """Notes signals that ask to end: a context manager, of the main thread."""

    def __init__(self) -> None:
        self.noted = False
        self._before: list[Any] = []

    def __enter__(self) -> Self:
        self._before = [signal.signal(number, self._note)
                        for number in _SIGNALS]
        return self

    def __exit__(self, exc_type: type[BaseException] | None,
                 exc: BaseException | None,
                 traceback: types.TracebackType | None) -> None:
        for number, handler in zip(_SIGNALS, self._before):
            signal.signal(number, handler)

    def _note(self, number: int, frame: object) -> None:
        self.noted = True

    def cause(self) -> Exception | None:
        """What the snapshot is to end with; none if it goes on."""
        if self.noted:
            return exception.Cancelled(reason='it was interrupted')
        return None

    def check(self) -> None:
        """:raises Cancelled: it is to end"""
        cause = self.cause()
        if cause is not None:
            raise cause

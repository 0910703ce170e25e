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

"""Connections to Glance that another thread can cut."""

import contextlib
import socket
from typing import Any

from keystoneauth1 import session as ksa_session
import requests


class Connections:
    """The connections of one session, which is not shared.

    A thread that sends to a server that takes nothing is stuck until a
    time-out, and neither requests nor urllib3 can interrupt it.
    """

    def __init__(self) -> None:
        self._session: Any = None
        self._opened: list[Any] = []

    def session(self, like: Any) -> Any:
        """The session, made with the TLS settings and time-out of another.

        :param like: a :class:`keystoneauth1.session.Session`
        """
        if self._session is None:
            inner = requests.Session()
            for scheme in tuple(inner.adapters):
                inner.mount(scheme, _Adapter(self._opened))
            self._session = ksa_session.Session(
                session=inner, verify=like.verify, cert=like.cert,
                timeout=like.timeout)
        return self._session

    def close(self) -> None:
        """Close the connections that are kept for another request."""
        if self._session is not None:
            self._session.session.close()

    def cut(self) -> None:
        """Make the thread that sends, or waits for an answer, fail now."""
        for connection in tuple(self._opened):
            for one in (connection.connecting, connection.sock):
                # It may be closed already, or be closed just now.
                with contextlib.suppress(AttributeError, OSError, ValueError):
                    one.shutdown(socket.SHUT_RDWR)


class _Adapter(ksa_session.TCPKeepAliveAdapter):
    """Adds the connections that its pools open to a list."""

    def __init__(self, opened: list[Any]) -> None:
        self._opened = opened
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self._note(self.poolmanager)

    def proxy_manager_for(self, proxy: Any, **kwargs: Any) -> Any:
        known = proxy in self.proxy_manager
        manager = super().proxy_manager_for(proxy, **kwargs)
        if not known:
            self._note(manager)
        return manager

    def _note(self, manager: Any) -> None:
        manager.pool_classes_by_scheme = {
            scheme: _noting(pool, self._opened) for scheme, pool in
            manager.pool_classes_by_scheme.items()}


def _noting(pool: Any, opened: list[Any]) -> Any:
    """A class of pools that adds its connections to a list."""
    base: Any = pool.ConnectionCls

    class _Connection(base):
        connecting: Any = None

        def _new_conn(self) -> Any:
            made = super()._new_conn()
            # Nobody sees the socket while TLS shakes hands over it.
            self.connecting = made.dup()
            return made

        def connect(self) -> None:
            opened.append(self)
            try:
                super().connect()
            finally:
                if self.connecting is not None:
                    self.connecting.close()

    return type(pool.__name__, (pool,), {'ConnectionCls': _Connection})

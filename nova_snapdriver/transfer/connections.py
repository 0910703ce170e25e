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

"""Connections to Glance that can be cut, and that hear what Glance says."""

import contextlib
import http.client
import socket
import ssl
from typing import Any

from keystoneauth1 import session as ksa_session
import requests
from urllib3.util import wait

_WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


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

    class _Connection(_Listening, base):
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


class _Listening(http.client.HTTPConnection):
    """Looks for an answer while it sends a body.

    A server that refuses an image says so, and hangs up with most of it
    unread. The whole of it would be sent in vain, and urllib3 1.26 loses the
    answer with the connection that is reset.
    """

    # What the server has said while the body was sent.
    _answer: Any = None
    response_class: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.response_class = self._response

    def send(self, data: Any) -> None:
        """:raises BrokenPipeError: urllib3 then reads the answer"""
        # Only a body's chunks come as these.
        if not isinstance(data, memoryview):
            return super().send(data)
        seconds = self.sock.gettimeout()
        self.sock.settimeout(0)
        try:
            while data:
                self._wait_for_room(seconds)
                data = data[self._send_some(data):]
        except ConnectionResetError as ex:
            raise BrokenPipeError(*ex.args) from ex
        finally:
            self.sock.settimeout(seconds)

    def _wait_for_room(self, seconds: float | None) -> None:
        if not wait.wait_for_socket(self.sock, True, True, seconds):
            raise TimeoutError('the server takes nothing for %s s' % seconds)
        if wait.wait_for_read(self.sock, 0) and self._answered():
            raise BrokenPipeError('there is an answer already')

    def _send_some(self, data: memoryview) -> int:
        try:
            return int(self.sock.send(data))
        except _WOULD_BLOCK:
            return 0                    # room for a part of a TLS record

    def _answered(self) -> bool:
        """Whether what can be read is an answer, or the end."""
        if self._answer is None:
            self._answer = self.sock.makefile('rb')
        try:
            self._answer.peek(1)
        except _WOULD_BLOCK:
            return False                # a message of TLS's own
        except OSError:
            pass                        # it shows again when it is read
        return True

    def _response(self, sock: Any, *args: Any,
                  **kwargs: Any) -> http.client.HTTPResponse:
        if self._answer is None:
            return http.client.HTTPResponse(sock, *args, **kwargs)
        response = _LastResponse(sock, *args, **kwargs)
        response.fp.close()
        response.fp, self._answer = self._answer, None
        return response


class _LastResponse(http.client.HTTPResponse):
    """One after which the connection is of no use: the body is not whole."""

    def begin(self) -> None:
        super().begin()
        self.will_close = True

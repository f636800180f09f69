"""One connection to one origin, and one exchange on it.

Owns the sockets and the framing, both by `http.client`. A body goes from the socket straight into
the caller's memory. One thread uses a connection at a time; `pool.py` hands them out.
"""

from __future__ import annotations

import http.client
import select
import socket
from collections.abc import Mapping
from types import TracebackType
from typing import Final, Protocol, Self, cast

from streamer_client.contract.errors import SourceError
from streamer_client.storage.http.deadline import Deadline, timed
from streamer_client.storage.http.messages import Answer, Request
from streamer_client.storage.http.origin import Origin, target_of
from streamer_client.storage.http.peers import check_peer
from streamer_client.storage.http.proxies import Proxy
from streamer_client.storage.http.settings import HttpSettings
from streamer_client.storage.http.tls import tls_context

_UNUSED_BODY_BYTES: Final = 64 << 10
"""A rest of a body no longer than this is read, to keep the connection; else it is closed."""

_WAKE_BYTES: Final = 256 << 10
"""A body's reader sleeps until so much has come: a quarter less processor time for each byte.

Woken for each packet it read 20 to 60 times for 8 MiB, each time with a system call, a turn of the
interpreter lock and a smaller buffer in the kernel.
"""


class CutOff(http.client.HTTPException):
    """The connection ended before the body did.

    Args:
        got: bytes that came.
        expected: bytes that were announced.
    """

    def __init__(self, got: int, expected: int) -> None:
        super().__init__(f"the answer ended after {got} of {expected} bytes")


class Connection:
    """A connection that is made when first used and kept for the next exchange."""

    def __init__(self, origin: Origin, settings: HttpSettings) -> None:
        self.origin = origin
        self.proxy = settings.proxies.of(origin)
        self.used = False
        """Whether an exchange on it has ended well: a failure may then be a closed idle one."""
        self._connected = False
        self._settings = settings
        self._deadline: Deadline | None = None
        self._last: http.client.HTTPResponse | None = None
        self._http = _connection(origin, settings, self.proxy)
        # A proxy's answer to CONNECT is made by it, too.
        self._http.response_class = cast("type[http.client.HTTPResponse]", self._response)

    def exchange(self, request: Request, deadline: Deadline) -> Exchange:
        """Send a request and receive the head of its answer.

        Args:
            request: prepared.
            deadline: when the body is to be there, too.

        Raises:
            OSError, http.client.HTTPException: `transport_faults.py` says what they mean.
            SourceForbidden: nobody's request goes to where it leads.
        """
        self._deadline = deadline
        if not self._connected:
            self._connect(request)
        elif self._http.sock.gettimeout() != self._settings.read_timeout_s:
            self._http.sock.settimeout(self._settings.read_timeout_s)
        headers = {"Host": self.origin.authority, "Accept-Encoding": "identity", **request.headers}
        target = target_of(request.url)
        if self.proxy and self.origin.scheme == "http":
            target = f"{self.origin}{target}"
            if self.proxy.authorization:
                headers["Proxy-Authorization"] = self.proxy.authorization
        self._http.request(request.method, target, headers=headers)
        connected = self._http.sock
        return Exchange(self._http.getresponse(), connected)

    def _connect(self, request: Request) -> None:
        self._http.connect()
        check_peer(request.about, self._http.sock)
        self._http.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._http.sock.settimeout(self._settings.read_timeout_s)
        self._connected = True

    def _response(
        self, connected: socket.socket, debuglevel: int = 0, method: str | None = None
    ) -> http.client.HTTPResponse:
        response = http.client.HTTPResponse(connected, debuglevel, method)
        if self._deadline is not None:
            response.fp = timed(response.fp, connected, self._deadline)
        self._last = response
        return response

    def alive(self) -> bool:
        """Whether an idle connection still stands: its peer has neither closed it nor spoken."""
        if self._http.sock is None:
            return False
        poll = select.poll()
        poll.register(self._http.sock, select.POLLIN)
        return not poll.poll(0)

    def close(self) -> None:
        """Idempotent."""
        # http.client leaves some answers to their readers (a proxy's; one after which the server
        # closes): a socket stays open as long as these are.
        if self._last is not None:
            self._last.close()
        self._http.close()


class Exchange:
    """An answer whose head was received and whose body is about to be."""

    def __init__(
        self, response: http.client.HTTPResponse, connected: socket.socket | None = None
    ) -> None:
        self.status = response.status
        self.headers: Mapping[str, str] = {
            name.lower(): value for name, value in response.getheaders()
        }
        self._response = response
        self._length = response.length or 0
        self._left = response.length  # None: chunked, or until the server closes
        self._socket = connected
        self._wake_bytes = 1

    def readinto(self, buffer: memoryview) -> int:
        """Receive some bytes of the body; 0 at its end.

        `HTTPResponse.readinto` would fill the whole buffer, and not tell how much of it is filled
        when the connection breaks meanwhile.

        Raises:
            CutOff: the connection ended before the body did.
            OSError, http.client.HTTPException: it broke.
        """
        if self._left is None:
            return self._response.readinto(buffer)
        if not self._left or not buffer:
            return 0
        self._sleep_until_much_came(self._left)
        count = self._response.fp.readinto1(buffer[: self._left])
        if not count:
            raise CutOff(self._length - self._left, self._length)
        self._left -= count
        return count

    def _sleep_until_much_came(self, left: int) -> None:
        """Have the kernel wake this thread seldom, and for the last bytes at once (socket(7)).

        What http.client and TLS hold back already (some 40 KiB at most) is not in the socket any
        more, hence the margin.
        """
        wake_bytes = _WAKE_BYTES if left >= 2 * _WAKE_BYTES else 1
        if wake_bytes != self._wake_bytes and self._socket is not None:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, wake_bytes)
            self._wake_bytes = wake_bytes

    def read(self, limit_bytes: int) -> bytes:
        """At most so many bytes of the body."""
        if self._left is None:
            return self._response.read(limit_bytes)
        target = bytearray(min(limit_bytes, self._left))
        done = 0
        with memoryview(target) as view:
            while done < len(target) and (count := self.readinto(view[done:])):
                done += count
        return bytes(target[:done])

    def finish(self) -> bool:
        """End the exchange; whether the connection may carry another one."""
        self._sleep_until_much_came(0)  # the next answer's head is short
        left = self._left
        if left is None:
            reusable = self._response.isclosed()
        else:
            if 0 < left <= _UNUSED_BODY_BYTES:
                self.read(left)
            reusable = self._left == 0
        reusable = reusable and not self._response.will_close
        self._response.close()
        return reusable


class Lent(Protocol):
    """Who takes a connection back."""

    def give_back(self, connection: Connection) -> None: ...


class Sent:
    """An exchange in progress; leaving the `with` block gives its connection back or closes it."""

    def __init__(self, exchange: Exchange, connection: Connection, lender: Lent) -> None:
        self.exchange = exchange
        self._connection = connection
        self._lender = lender

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # After an error a connection is in an unknown state. After a refusal it is not: its body
        # was read before the refusal was raised.
        if (kind is None or self.exchange.status >= 300) and self._finished():
            self._connection.used = True
            self._lender.give_back(self._connection)
        else:
            self._connection.close()

    def answer(self, limit_bytes: int) -> Answer:
        """The head, with the body up to `limit_bytes`."""
        exchange = self.exchange
        return Answer(exchange.status, exchange.headers, exchange.read(limit_bytes))

    def _finished(self) -> bool:
        try:
            return self.exchange.finish()
        except (OSError, http.client.HTTPException):
            return False


def _connection(
    origin: Origin, settings: HttpSettings, proxy: Proxy | None
) -> http.client.HTTPConnection:
    host, port = (proxy.host, proxy.port) if proxy else (origin.host, origin.port)
    if origin.scheme == "http":
        return http.client.HTTPConnection(host, port, timeout=settings.connect_timeout_s)
    context = tls_context(settings.authorities, settings.verify)
    connection = http.client.HTTPSConnection(
        host, port, timeout=settings.connect_timeout_s, context=context
    )
    if proxy:
        allowed = {"Proxy-Authorization": proxy.authorization} if proxy.authorization else {}
        connection.set_tunnel(origin.host, origin.port, headers=allowed)
    return connection


_NO_ENCODINGS: Final = frozenset({"", "identity", "aws-chunked", "utf-8", "utf8"})
"""Values of Content-Encoding that say nothing of the bytes: `aws-chunked` tells how an object was
uploaded, and `utf-8` is a charset that somebody wrote into the wrong header."""


def leaves_bytes_alone(encoding: str) -> bool:
    """Whether a body of this Content-Encoding (a list, in any case of letters) is as stored."""
    return all(part.strip().lower() in _NO_ENCODINGS for part in encoding.split(","))


def plain_body(about: str, headers: Mapping[str, str]) -> None:
    """Refuse a body that is packed on its way: its ranges are not the object's.

    Raises:
        SourceError: naming the encoding.
    """
    encoding = headers.get("content-encoding", "")
    if not leaves_bytes_alone(encoding):
        raise SourceError(
            f"{about}: is sent with Content-Encoding {encoding}, so its ranges are not those of "
            "the file; store it, and let the server send it, without compression"
        )

"""One connection to one origin, and one exchange on it.

Owns the sockets and the framing, both by `http.client`, and the refusal to connect to the metadata
services of clouds. A body goes from the socket straight into the reader's memory. One thread uses a
connection at a time; `pool.py` hands connections out.

Metadata services give the credentials of a *machine* to every process on it. A daemon that reads
for others would ask them in its own name if a client's endpoint or URL led there. So would a client
that reads a source which somebody else named. The address behind a name is known only once the
connection stands, so the peer is checked then, before anything is sent.
"""

from __future__ import annotations

import http.client
import ipaddress
import select
import socket
import ssl
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Final, Self, cast

from streamer_client.contract.errors import SourceForbidden
from streamer_client.storage.http.dialect import Answer, Request
from streamer_client.storage.http.proxies import Proxy
from streamer_client.storage.http.settings import HttpSettings
from streamer_client.storage.http.transport.deadline import Deadline, timed
from streamer_client.storage.http.transport.tls import tls_context
from streamer_client.storage.http.urls import Origin, target_of

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

METADATA_NETWORKS: Final[tuple[Network, ...]] = tuple(
    map(
        ipaddress.ip_network,
        (
            "169.254.0.0/16",  # link-local: Amazon (also ECS, EKS), Google, Azure, Oracle
            "fe80::/10",  # the same in IPv6
            "fd00:ec2::/32",  # Amazon
            "fd20:ce::/32",  # Google
            "168.63.129.16/32",  # Azure's host
            "100.100.100.200/32",  # Alibaba
        ),
    )
)


def is_metadata_address(address: str) -> bool:
    """Whether a metadata service may have this IP address, so that no request goes there."""
    found = ipaddress.ip_address(address)
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped:
        found = found.ipv4_mapped
    networks = (each for each in METADATA_NETWORKS if each.version == found.version)
    return any(found in network for network in networks)


def check_peer(about: str, connected: socket.socket) -> None:
    """Refuse a connection that leads to a metadata service.

    Args:
        about: the name of the requested object, for the text of the error.
        connected: a TCP connection.

    Raises:
        SourceForbidden: the peer's address is one where metadata services are.
    """
    address = str(connected.getpeername()[0])
    if is_metadata_address(address):
        raise SourceForbidden(
            f"{about}: its host is {address}, where clouds keep the credentials of machines; "
            "nothing is read from there. Give the store's own address"
        )


_UNUSED_BODY_BYTES: Final = 64 << 10
"""The longest unread rest of a body that is read, so that the connection can be used again; with a
longer rest the connection is closed."""

_WAKE_BYTES: Final = 256 << 10
"""How many bytes arrive before the kernel wakes the thread that reads a body.

This takes a quarter less processor time for each byte. A thread that was woken for each packet read
20 to 60 times for 8 MiB. Each time it needed a system call and a turn of the interpreter lock, and
the kernel's buffer stayed small.
"""


class CutOff(http.client.HTTPException):
    """The connection ended before the body did.

    Args:
        got: how many bytes came.
        expected: how many bytes were announced.
    """

    def __init__(self, got: int, expected: int) -> None:
        super().__init__(f"the answer ended after {got} of {expected} bytes")


class HttpConnection:
    """A connection that is made when it is first used, and stays open for the next exchange.

    Args:
        origin: the origin to connect to.
        settings: the settings of the connection.
        context: a TLS context in place of the one that the settings ask for, for a server that
            wants to see a client's certificate.
    """

    def __init__(
        self, origin: Origin, settings: HttpSettings, context: ssl.SSLContext | None = None
    ) -> None:
        self.origin = origin
        self.proxy = settings.proxies.of(origin)
        self.used = False
        """Whether an exchange on this connection has succeeded. If so, a failure of the next one
        may only mean that the server closed the connection while it was idle."""
        self._connected = False
        self._settings = settings
        self._deadline: Deadline | None = None
        self._last: http.client.HTTPResponse | None = None
        self._http = _connection(origin, settings, self.proxy, context)
        # http.client also makes a proxy's answer to CONNECT with this class.
        self._http.response_class = cast("type[http.client.HTTPResponse]", self._response)

    def exchange(self, request: Request, deadline: Deadline) -> Exchange:
        """Send a request and receive the head of its answer.

        Args:
            request: the prepared request.
            deadline: the time at which the whole answer, body included, must be there.

        Raises:
            OSError, http.client.HTTPException: `faults.py` says what they mean.
            SourceForbidden: the origin is a metadata service; nothing was sent to it.
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
        """Whether an idle connection can be used: its peer neither closed it nor sent anything."""
        if self._http.sock is None:
            return False
        poll = select.poll()
        poll.register(self._http.sock, select.POLLIN)
        return not poll.poll(0)

    def close(self) -> None:
        """Close the sockets. Idempotent."""
        # http.client leaves some answers open: a proxy's, and those after which the server closes
        # the
        # connection. An open answer keeps the socket open.
        if self._last is not None:
            self._last.close()
        self._http.close()


class Exchange:
    """An answer whose head was received and whose body can be read."""

    def __init__(
        self, response: http.client.HTTPResponse, connected: socket.socket | None = None
    ) -> None:
        self.status = response.status
        self.headers: Mapping[str, str] = {
            name.lower(): value for name, value in response.getheaders()
        }
        self._response = response
        self._length = response.length or 0
        self._left = response.length  # None if chunked, or if the body ends with the connection
        self._socket = connected
        self._wake_bytes = 1

    def readinto(self, buffer: memoryview) -> int:
        """Receive some bytes of the body; 0 at its end.

        `HTTPResponse.readinto` would fill the whole buffer; if the connection broke meanwhile, it
        would not tell how many bytes had come.

        Raises:
            CutOff: the connection ended before the body did.
            OSError, http.client.HTTPException: the connection broke.
        """
        if self._left is None:
            return self._response.readinto(buffer)
        if not self._left or not buffer:
            return 0
        self._set_low_water_mark(self._left)
        count = self._response.fp.readinto1(buffer[: self._left])
        if not count:
            raise CutOff(self._length - self._left, self._length)
        self._left -= count
        return count

    def _set_low_water_mark(self, left: int) -> None:
        """Set how many bytes must arrive before the kernel wakes this thread (socket(7)).

        Near the end of the body, any byte wakes the thread. "Near" is twice `_WAKE_BYTES`, because
        up to some 40 KiB of the rest may be in the buffers of http.client and TLS, and will never
        arrive at the socket.
        """
        wake_bytes = _WAKE_BYTES if left >= 2 * _WAKE_BYTES else 1
        if wake_bytes != self._wake_bytes and self._socket is not None:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, wake_bytes)
            self._wake_bytes = wake_bytes

    def read(self, limit_bytes: int) -> bytes:
        """The next bytes of the body, at most `limit_bytes`."""
        if self._left is None:
            return self._response.read(limit_bytes)
        target = bytearray(min(limit_bytes, self._left))
        done = 0
        with memoryview(target) as view:
            while done < len(target) and (count := self.readinto(view[done:])):
                done += count
        return bytes(target[:done])

    def finish(self) -> bool:
        """End the exchange; return whether the connection may carry another one."""
        self._set_low_water_mark(0)  # the next answer's head is short
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


class Sent:
    """An exchange in progress; leaving the `with` block gives its connection back or closes it."""

    def __init__(
        self,
        exchange: Exchange,
        connection: HttpConnection,
        give_back: Callable[[HttpConnection], None],
    ) -> None:
        self.exchange = exchange
        self._connection = connection
        self._give_back = give_back

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # After an error a connection is in an unknown state. After a refusal its state is known,
        # because
        # the body was read before the refusal was raised.
        if (kind is None or self.exchange.status >= 300) and self._finished():
            self._connection.used = True
            self._give_back(self._connection)
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
    origin: Origin, settings: HttpSettings, proxy: Proxy | None, context: ssl.SSLContext | None
) -> http.client.HTTPConnection:
    host, port = (proxy.host, proxy.port) if proxy else (origin.host, origin.port)
    if origin.scheme == "http":
        return http.client.HTTPConnection(host, port, timeout=settings.connect_timeout_s)
    if context is None:
        context = tls_context(settings.authorities, settings.verify, settings.names.authorities)
    connection = http.client.HTTPSConnection(
        host, port, timeout=settings.connect_timeout_s, context=context
    )
    if proxy:
        allowed = {"Proxy-Authorization": proxy.authorization} if proxy.authorization else {}
        connection.set_tunnel(origin.host, origin.port, headers=allowed)
    return connection

"""The socket that Prometheus asks: HTTP/1.1 on a TCP address or a Unix socket, one answer each.

This module owns the listening socket and the few connections on it. A client that is slow, sends
nonsense or asks too often harms only other clients of this socket. Connections are few at once and
few a second, and each lasts a few seconds, so that the loop, which serves loads, spends next to
nothing here. The text of each of the two forms is made at most once in `FRESH_S`, and that of a
family only if its values changed (`exposition.py`). Runs in the daemon's loop.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from collections.abc import Callable
from typing import Final

from prometheus_client.registry import CollectorRegistry

from streamer_client.contract.errors import ConfigError
from streamerd.control.listening import Listening, listen
from streamerd.observe.exposition import Form, Texts, form_for

logger = logging.getLogger(__name__)

MOST_CONNECTIONS: Final = 8
MOST_ACCEPTED: Final = 20
"""Connections that are accepted in `COUNTED_S`. Further ones wait in the kernel's queue."""
COUNTED_S: Final = 1.0
ANSWERED_S: Final = 5.0
"""Seconds that a connection may take from its first byte until it has received the answer."""
MOST_HEAD_BYTES: Final = 8 << 10
FRESH_S: Final = 0.25
_BACKLOG: Final = 16


class MetricsListener:
    """Serves a registry at one address.

    Args:
        registry: gives the families of metrics.
        clock: the loop's clock.
    """

    def __init__(self, registry: CollectorRegistry, clock: Callable[[], float]) -> None:
        self._texts = Texts(registry)
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._socket: socket.socket | None = None
        self._file: Listening | None = None
        self._serving: set[asyncio.Task[None]] = set()
        """The tasks that serve connections. These are their only strong references."""
        self._accepted = 0
        """Number of connections that were accepted in the present interval of `COUNTED_S`."""
        self._turn: asyncio.TimerHandle | None = None
        """The timer that ends the present interval."""
        self._made: dict[str, tuple[float, bytes]] = {}
        """The text of each form, by its media type, and when it was made."""

    def open(self, address: str, mode: int) -> None:
        """Listen.

        Args:
            address: `HOST:PORT`, or an absolute path.
            mode: permissions of the socket file, if the address is a path.

        Raises:
            ConfigError: the address cannot be listened on.
        """
        if os.path.isabs(address):
            self._file = _unix_socket(address, mode)
            self._socket = self._file.socket
        else:
            self._socket = _tcp_socket(address)
        self._accept_again()
        logger.info("event=metrics_served address=%s", address)

    @property
    def address(self) -> object:
        """The address of the listening socket, as the kernel tells it."""
        assert self._socket is not None
        return self._socket.getsockname()

    def close(self) -> None:
        """Stop listening, and end the connections. Idempotent."""
        if self._turn is not None:
            self._turn.cancel()
        if self._socket is not None:
            self._loop.remove_reader(self._socket)
            (self._file or self._socket).close()
            self._socket = None
        for task in list(self._serving):
            task.cancel()

    # --- connections ------------------------------------------------------------------------------

    def _accept_again(self) -> None:
        self._accepted = 0
        if self._socket is not None:
            self._loop.add_reader(self._socket, self._accept)

    def _accept(self) -> None:
        assert self._socket is not None
        if not self._accepted:
            self._turn = self._loop.call_later(COUNTED_S, self._accept_again)
        self._accepted += 1
        if self._accepted >= MOST_ACCEPTED:
            self._loop.remove_reader(self._socket)
        try:
            connection, _ = self._socket.accept()
        except OSError:  # the client has left already, or too many files are open
            return
        if len(self._serving) >= MOST_CONNECTIONS:
            connection.close()
            return
        connection.setblocking(False)
        task = self._loop.create_task(self._serve(connection))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)
        # The task cannot close the connection itself: if it is cancelled before its first step,
        # none of its code runs.
        task.add_done_callback(lambda _task: connection.close())

    async def _serve(self, connection: socket.socket) -> None:
        try:
            async with asyncio.timeout(ANSWERED_S):
                head = await self._head(connection)
                await self._loop.sock_sendall(connection, self._answer(head))
                connection.shutdown(socket.SHUT_WR)
        except (OSError, TimeoutError):
            return  # the client has left, or is too slow
        except Exception:
            # An error that nobody handles ends the daemon, and a scrape must not end loads.
            logger.exception("event=metrics_failed")

    async def _head(self, connection: socket.socket) -> bytes:
        head = b""
        while b"\r\n\r\n" not in head and len(head) < MOST_HEAD_BYTES:
            piece = await self._loop.sock_recv(connection, MOST_HEAD_BYTES)
            if not piece:
                break
            head += piece
        return head

    # --- answers ----------------------------------------------------------------------------------

    def _answer(self, head: bytes) -> bytes:
        text, complete, _ = head.decode("latin-1").partition("\r\n\r\n")
        line, *fields = text.split("\r\n")
        words = line.split(" ")
        if not complete or len(words) != 3 or not words[2].startswith("HTTP/1."):
            return _response("400 Bad Request", b"this is no request of HTTP/1\n")
        method, target, _ = words
        if method not in ("GET", "HEAD"):
            return _response("405 Method Not Allowed", b"only GET\n")
        if target.partition("?")[0] != "/metrics":
            return _response("404 Not Found", b"metrics are at /metrics\n")
        form = form_for(_field(fields, "accept"))
        return _response("200 OK", self._text(form), form.kind, without_body=method == "HEAD")

    def _text(self, form: Form) -> bytes:
        made_s, body = self._made.get(form.kind, (float("-inf"), b""))
        if self._clock() - made_s >= FRESH_S:
            body = self._texts.of(form)
            self._made[form.kind] = (self._clock(), body)
        return body


def _field(fields: list[str], name: str) -> str:
    for each in fields:
        called, _, value = each.partition(":")
        if called.strip().lower() == name:
            return value.strip()
    return ""


def _response(
    status: str, body: bytes, kind: str = "text/plain; charset=utf-8", *, without_body: bool = False
) -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
        "Connection: close\r\nX-Content-Type-Options: nosniff\r\n\r\n"
    )
    return head.encode() + (b"" if without_body else body)


def _unix_socket(path: str, mode: int) -> Listening:
    if _is_served(path):
        raise ConfigError(
            f"metrics_listen: somebody listens at {path} already; choose another path, or stop who "
            "has it"
        )
    try:
        return listen(path, mode, socket.SOCK_STREAM)
    except ConfigError as error:
        told = str(error).replace("another --socket", "another path")
        raise ConfigError(f"metrics_listen: {told}") from error


def _is_served(path: str) -> bool:
    """Whether a program listens at a path.

    No lock lies beside this path, as one does beside the control socket. So a socket that belongs
    to the daemon's user need not be one that a killed daemon left.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            failed = probe.connect_ex(path)
        except OSError:  # the path is longer than a socket's path may be
            return False
    # A full queue of connections, or a socket of another type, also belongs to a program.
    return failed in (0, errno.EAGAIN, errno.EPROTOTYPE)


def _tcp_socket(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    try:
        found = socket.getaddrinfo(
            host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, _, _, _, place = found[0]
        made = socket.create_server(place, family=family, backlog=_BACKLOG)
    except OSError as error:
        raise ConfigError(
            f"metrics_listen: cannot listen on {address}: {error.strerror}; choose another port, "
            "or stop who has it"
        ) from error
    made.setblocking(False)
    return made

"""Reads the head of a request within bounds of size and time. Used by `connection.py`."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

MOST_HEAD_BYTES: Final = 4 << 10
MOST_FIELDS: Final = 24
HEAD_S: Final = 5.0
"""Seconds that a head may take from its first byte to its end."""
IDLE_S: Final = 60.0
"""Seconds for which a connection may stay open without a request."""


class BadRequest(Exception):
    """The peer sent no request that is answered here. The connection is closed."""


class Head(NamedTuple):
    """The head of a request, which is the whole request: none has a body."""

    method: str
    path: str
    fields: Mapping[str, str]
    """The header fields, by their names in lower case."""


class Heads:
    """The heads of requests on one connection.

    Args:
        connected: a blocking socket, plain or of TLS.
        clock: returns seconds.
    """

    def __init__(
        self, connected: socket.socket, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._socket = connected
        self._clock = clock
        self._pending = b""

    def next(self) -> Head | None:
        """The next head; None where the peer closed the connection.

        Raises:
            BadRequest: the head is too long or malformed.
            OSError: the connection broke, or the head took too long.
        """
        if not self._pending:
            self._socket.settimeout(IDLE_S)
            self._pending = self._socket.recv(MOST_HEAD_BYTES)
        until_s = self._clock() + HEAD_S
        while (stop := self._pending.find(b"\r\n\r\n")) < 0:
            left_s = until_s - self._clock()
            if len(self._pending) >= MOST_HEAD_BYTES:
                raise BadRequest("the head is too long")
            if left_s <= 0:
                raise TimeoutError
            if not self._pending:
                return None
            self._socket.settimeout(left_s)
            data = self._socket.recv(MOST_HEAD_BYTES)
            if not data:
                raise BadRequest("the head ended early")
            self._pending += data
        head, self._pending = self._pending[:stop], self._pending[stop + 4 :]
        return parse_head(head)


def parse_head(head: bytes) -> Head:
    """The parts of a head, without the empty line at its end.

    Raises:
        BadRequest: the head is malformed, or announces a body.
    """
    try:
        lines = head.decode("ascii").split("\r\n")
    except UnicodeDecodeError as error:
        raise BadRequest("the head is not ASCII") from error
    parts = lines[0].split(" ")
    if len(parts) != 3 or parts[2] != "HTTP/1.1" or len(lines) > 1 + MOST_FIELDS:
        raise BadRequest("the first line is no request of HTTP/1.1, or there are too many fields")
    fields: dict[str, str] = {}
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        name = name.lower()
        if (
            not colon
            or not name
            or name != name.strip()
            or name in fields
            or not line.isprintable()
        ):
            raise BadRequest("a field is malformed, or given twice")
        fields[name] = value.strip()
    if fields.get("content-length", "0") != "0" or "transfer-encoding" in fields:
        raise BadRequest("a body is announced")
    return Head(parts[0], parts[1], fields)

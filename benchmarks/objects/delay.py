"""Delays answers: nginx asks this server before each answer, and this server waits.

A proxy that copies bodies would limit the measured rate, so no body passes here. nginx asks for a
permission for each request (`auth_request`), and gets it when the delay is over. It then sends the
object itself, by sendfile, as it does without a delay. A delayed request costs one small exchange
on a Unix socket. This one thread answers some thousands of them a second, and none of the waiting
ones holds a thread.

This does not imitate a long line: connecting and TLS's handshake are not delayed, and the kernel's
windows grow as on loopback. The delay is that of a store that thinks before it answers.
"""

from __future__ import annotations

import collections
import contextlib
import os
import selectors
import socket
import threading
import time
from typing import Final, Generic, Self, TypeVar

T = TypeVar("T")

_PERMISSION: Final = b"HTTP/1.1 204 No Content\r\n\r\n"
_HEAD_END: Final = b"\r\n\r\n"
_BACKLOG: Final = 4096
_READ_BYTES: Final = 64 << 10


class DelayLine(Generic[T]):
    """The waiting requests, in the order of their arrival. Each is due one delay after it came.

    Reads no clock: callers pass the time.
    """

    def __init__(self, delay_s: float) -> None:
        self._delay_s = delay_s
        self._waiting: collections.deque[tuple[float, T]] = collections.deque()

    def add(self, one: T, now_s: float) -> None:
        self._waiting.append((now_s + self._delay_s, one))

    def due(self, now_s: float) -> list[T]:
        """Take out and return the requests whose delay is over."""
        found = []
        while self._waiting and self._waiting[0][0] <= now_s:
            found.append(self._waiting.popleft()[1])
        return found

    def wait_s(self, now_s: float) -> float | None:
        """Seconds until the delay of the next request is over; None if no request waits."""
        return max(0.0, self._waiting[0][0] - now_s) if self._waiting else None


class DelayServer:
    """Answers each request on a Unix socket after the delay; a context manager, one thread.

    Args:
        path: path of the socket.
        delay_s: how long each request waits.
    """

    def __init__(self, path: str, delay_s: float) -> None:
        self.path = path
        self._line: DelayLine[socket.socket] = DelayLine(delay_s)
        self._heads: dict[socket.socket, bytes] = {}
        """The part of a request that each connection has sent so far."""
        self._thread = threading.Thread(target=self._serve, name="delay")
        self._ended, self._end = socket.socketpair()

    def __enter__(self) -> Self:
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(self.path)
        self._listening.listen(_BACKLOG)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.close()
        self._thread.join()
        for one in (self._listening, self._ended, *self._heads):
            one.close()
        os.unlink(self.path)

    def _serve(self) -> None:
        with selectors.DefaultSelector() as selector:
            for one in (self._listening, self._ended):
                selector.register(one, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select(self._line.wait_s(time.monotonic())):
                    if key.fileobj is self._ended:
                        return
                    if key.fileobj is self._listening:
                        accepted, _ = self._listening.accept()
                        self._heads[accepted] = b""
                        selector.register(accepted, selectors.EVENT_READ)
                    elif isinstance(key.fileobj, socket.socket):
                        self._receive(key.fileobj, selector)
                self._permit()

    def _receive(self, asking: socket.socket, selector: selectors.BaseSelector) -> None:
        received = b""
        with contextlib.suppress(ConnectionResetError):
            received = asking.recv(_READ_BYTES)
        if not received:
            selector.unregister(asking)
            del self._heads[asking]
            asking.close()
            return
        head = self._heads[asking] + received
        if whole := head.endswith(_HEAD_END):  # nginx has one request at a time on a connection
            self._line.add(asking, time.monotonic())
        self._heads[asking] = b"" if whole else head

    def _permit(self) -> None:
        for asking in self._line.due(time.monotonic()):
            with contextlib.suppress(OSError):  # nginx has closed the connection
                asking.sendall(_PERMISSION)

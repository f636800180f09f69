"""A server that sends its answer byte by byte, for as long as anybody listens.

Owns the pace of an answer, not its text: a part of it is sent at once, and the rest byte by byte.
Each connection carries one request, and has a thread that ends when the client disconnects.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Trickle:
    """The answer to one request, and its pace."""

    at_once: bytes = b""
    slowly: bytes = b""
    every_s: float = 0.02


class TricklingServer:
    """Listens at `address`; `requests` lists the requests that came."""

    def __init__(self, answer: Callable[[str], Trickle]) -> None:
        self.requests: list[str] = []
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        for thread in list(self._threads):
            thread.join()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            request = b""
            while b"\r\n\r\n" not in request:
                part = connection.recv(4096)
                if not part:
                    return
                request += part
            self.requests.append(request.decode())
            answer = self._answer(self.requests[-1])
            connection.sendall(answer.at_once)
            for place in range(len(answer.slowly)):
                # The client has nothing more to say, so the socket becomes readable only when the
                # client hangs up.
                if select.select([connection], [], [], answer.every_s)[0]:
                    return
                connection.sendall(answer.slowly[place : place + 1])


@contextlib.contextmanager
def trickling_server(answer: Callable[[str], Trickle]) -> Iterator[TricklingServer]:
    """A server that ends with the block; its clients must have disconnected by then."""
    server = TricklingServer(answer)
    try:
        yield server
    finally:
        server.close()

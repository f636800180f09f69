"""A real HTTP server in front of a store; it records each request, and fails as a test says.

Behind it is a `Backend` (see `object_backends.py`): a store in memory, or another server. Faults
come from a script, one for each GET, or are drawn by chance from a seed.
"""

from __future__ import annotations

import contextlib
import enum
import random
import socket
import ssl
import struct
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol, cast


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as it arrived."""

    method: str
    target: str
    """The path and query."""
    headers: Mapping[str, str]
    """The headers; their names are in lower case."""

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def range(self) -> tuple[int, int] | None:
        """Start and stop (excluded) of the requested range."""
        text = self.headers.get("range")
        if text is None:
            return None
        first, _, last = text.removeprefix("bytes=").partition("-")
        return int(first), int(last) + 1


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    """The body; for a HEAD, the body that a GET would have."""


class Backend(Protocol):
    def answer(self, asked: Asked) -> Reply: ...


class Fault(enum.Enum):
    INTERNAL = 500
    BAD_GATEWAY = 502
    SLOW_DOWN = 503
    TOO_MANY = 429
    RESET = "reset in the middle of the body"
    STALL = "silence in the middle of the body"
    SHORT = "end of the connection in the middle of the body"


@dataclass(frozen=True, slots=True)
class Seen:
    """A request and its answer."""

    asked: Asked
    fault: Fault | None
    status: int
    """The status that was sent, or would have been sent."""


class FaultProxy:
    """The server, which listens at `url`.

    Args:
        backend: makes the answers.
        context: a server's TLS context; None for plain HTTP.
    """

    def __init__(self, backend: Backend, context: ssl.SSLContext | None = None) -> None:
        self.backend = backend
        self.seen: list[Seen] = []
        self.rates: dict[Fault, float] = {}
        self.script: list[Fault | None] = []
        """Faults of the next GETs; chance decides only after these."""
        self.chance = random.Random(0)
        self.lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.proxy = self
        if context:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        scheme = "https" if context else "http"
        self.url = f"{scheme}://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def gets(self, path_end: str = "") -> list[Seen]:
        """GETs of objects (not of listings) so far."""
        with self.lock:
            return [
                seen
                for seen in self.seen
                if seen.asked.method == "GET"
                and "list-type" not in seen.asked.target
                and seen.asked.path.endswith(path_end)
            ]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def draw(self, asked: Asked) -> Fault | None:
        with self.lock:
            if self.script and asked.method == "GET":
                return self.script.pop(0)
            dice = self.chance.random()
            for fault, rate in self.rates.items():
                dice -= rate
                if dice < 0:
                    return fault
            return None

    def record(self, seen: Seen) -> None:
        with self.lock:
            self.seen.append(seen)


class _Server(ThreadingHTTPServer):
    proxy: FaultProxy
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Do nothing: tests make clients go away, or trust no certificate."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def do_GET(self) -> None:
        self._serve()

    def do_HEAD(self) -> None:
        self._serve()

    def log_message(self, *_args: object) -> None:
        """Log nothing, as tests read `seen`."""

    def _serve(self) -> None:
        proxy = cast("_Server", self.server).proxy
        headers = {name.lower(): value for name, value in self.headers.items()}
        asked = Asked(self.command, self.path, headers)
        fault = proxy.draw(asked)
        if fault is None:
            reply = proxy.backend.answer(asked)
        elif isinstance(fault.value, int):
            reply = _refusal(fault)
        else:
            reply = proxy.backend.answer(asked)
        proxy.record(Seen(asked, fault, reply.status))
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            if fault is None or isinstance(fault.value, int):
                self._send(reply, len(reply.body))
            else:
                self._break(fault, reply)

    def _send(self, reply: Reply, body_bytes: int) -> None:
        self.send_response(reply.status)
        for name, value in {"Content-Length": str(len(reply.body)), **reply.headers}.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(memoryview(reply.body)[:body_bytes])
        self.wfile.flush()

    def _break(self, fault: Fault, reply: Reply) -> None:
        self.close_connection = True
        if self.command == "GET":
            self._send(reply, len(reply.body) // 2)
        if fault is Fault.STALL:
            with contextlib.suppress(OSError):
                self.rfile.read(1)  # returns when the client gives up
        elif fault is Fault.RESET:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()


def _refusal(fault: Fault) -> Reply:
    codes = {500: "InternalError", 502: "BadGateway", 503: "SlowDown", 429: "TooManyRequests"}
    body = f"<Error><Code>{codes[fault.value]}</Code><Message>{fault.name}</Message></Error>"
    return Reply(fault.value, {"x-amz-request-id": "FAULT"}, body.encode())


@contextlib.contextmanager
def fault_proxy(backend: Backend, context: ssl.SSLContext | None = None) -> Iterator[FaultProxy]:
    """A proxy that ends with the block."""
    proxy = FaultProxy(backend, context)
    try:
        yield proxy
    finally:
        proxy.close()


def ranges(seen: Iterable[Seen]) -> list[tuple[int, int]]:
    """The requested ranges, in order."""
    return [entry.asked.range or (0, 0) for entry in seen]

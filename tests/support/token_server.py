"""Gives access tokens over real HTTP.

It answers like Google's token endpoint and metadata server, and like the managed identity of
Azure's App Service.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import cast
from urllib.parse import urlsplit


class TokenServer(ThreadingHTTPServer):
    """The server. Tokens are numbered; `given` counts those given so far."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.authority = f"127.0.0.1:{self.server_address[1]}"
        self.url = f"http://{self.authority}"
        self.given = 0
        self.life_s = 3600
        self.refusal = ""
        """Why no token is given; empty if tokens are given."""
        self.asked: list[str] = []


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._answer()

    def log_message(self, *_args: object) -> None:
        """Log nothing, as tests read `asked`."""

    def _answer(self) -> None:
        server = cast("TokenServer", self.server)
        server.asked.append(self.path)
        path = urlsplit(self.path).path
        if path.endswith("/service-accounts/default/"):
            self._send(200, b'{"email": "reader@p.iam.gserviceaccount.com", "scopes": []}')
        elif "token" not in path:
            # Clients know a metadata server by its flavour header. This one has no project to name.
            self._send(200 if path in ("", "/") else 404, b"")
        elif server.refusal:
            self._send(400, json.dumps({"error": server.refusal}).encode())
        else:
            self._send(200, self._token(server))

    def _token(self, server: TokenServer) -> bytes:
        server.given += 1
        answer = {
            "access_token": f"token-{server.given}",
            "expires_in": server.life_s,
            "expires_on": str(int(time.time()) + server.life_s),
            "token_type": "Bearer",
            "resource": "https://storage.azure.com",
        }
        return json.dumps(answer).encode()

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Metadata-Flavor", "Google")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextlib.contextmanager
def token_server() -> Iterator[TokenServer]:
    """A running token server."""
    server = TokenServer()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

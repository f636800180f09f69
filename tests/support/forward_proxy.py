"""A real HTTP proxy: absolute URLs and CONNECT tunnels, with or without a password."""

from __future__ import annotations

import contextlib
import http.client
import selectors
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import cast
from urllib.parse import urlsplit


class ForwardProxy:
    """Listens at `address`; `passed` lists the requests that went through it."""

    def __init__(self, authorization: str = "") -> None:
        self.authorization = authorization
        self.passed: list[str] = []
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.proxy = self
        self.address = f"127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    proxy: ForwardProxy
    daemon_threads = True
    block_on_close = False


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_CONNECT(self) -> None:
        if not self._allowed():
            return
        host, _, port = self.path.rpartition(":")
        with socket.create_connection((host, int(port))) as upstream:
            self.send_response(200, "Connection established")
            self.end_headers()
            self.close_connection = True
            _relay(self.connection, upstream)

    def do_GET(self) -> None:
        self._forward()

    def do_HEAD(self) -> None:
        self._forward()

    def log_message(self, *_args: object) -> None:
        """Log nothing, as tests read `passed`."""

    def _allowed(self) -> bool:
        proxy = cast("_Server", self.server).proxy
        if self.headers.get("Proxy-Authorization", "") == proxy.authorization:
            proxy.passed.append(f"{self.command} {self.path}")
            return True
        self.send_response(407)
        self.send_header("Content-Length", "0")
        self.end_headers()
        return False

    def _forward(self) -> None:
        if not self._allowed():
            return
        parts = urlsplit(self.path)
        headers = {
            name: value for name, value in self.headers.items() if "proxy" not in name.lower()
        }
        connection = http.client.HTTPConnection(parts.netloc, timeout=30)
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        connection.request(self.command, target, headers=headers)
        response = connection.getresponse()
        body = response.read()
        connection.close()
        self.send_response(response.status)
        for name, value in response.getheaders():
            if name.lower() not in ("connection", "server", "date"):
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def _relay(left: socket.socket, right: socket.socket) -> None:
    """Carry bytes both ways until one side ends."""
    other = {left: right, right: left}
    with selectors.DefaultSelector() as selector:
        for side in other:
            selector.register(side, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                side = cast("socket.socket", key.fileobj)
                try:
                    data = side.recv(1 << 16)
                    if not data:
                        return
                    other[side].sendall(data)
                except ConnectionError:
                    return


@contextlib.contextmanager
def forward_proxy(authorization: str = "") -> Iterator[ForwardProxy]:
    """A proxy that ends with the block.

    Args:
        authorization: the required value of Proxy-Authorization; empty if none is required.
    """
    proxy = ForwardProxy(authorization)
    try:
        yield proxy
    finally:
        proxy.close()

"""The benchmark of object stores uses a real nginx, with late answers, TLS and counted requests."""

from __future__ import annotations

import contextlib
import shutil
import socket
import urllib.parse
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path

import pytest
from benchmarks.objects.delay import DelayServer
from benchmarks.objects.server import ObjectServer
from benchmarks.objects.tls import client_context

REQUEST = b"GET /.delay HTTP/1.1\r\nHost: delay\r\n\r\n"
CONTENT = bytes(range(256)) * 4
NGINX = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin")
OPENSSL = shutil.which("openssl")


@pytest.mark.skipif(
    NGINX is None or OPENSSL is None,
    reason="nginx or openssl is not installed: apt-get install nginx-light openssl",
)
def test_each_link_gives_objects_and_listings_and_counts_them(tmp_path: Path) -> None:
    root, runtime = tmp_path / "root", tmp_path / "runtime"
    (root / "bucket").mkdir(parents=True)
    runtime.mkdir()
    (root / "bucket" / "key").write_bytes(CONTENT)
    with ObjectServer(str(root), str(runtime), 1, tls=True, delay_s=0.01) as server:
        assert server.links == ["", "delay", "TLS"]
        for link in server.links:
            assert fetched(server, link, "bucket/key", Range="bytes=16-31") == CONTENT[16:32]
            assert fetched(server, link, "bucket/key") == CONTENT
            listing = fetched(server, link, "bucket?list-type=2&prefix=key")
            assert b"<Key>key</Key>" in listing

            found = server.requests()

            assert (found.gets, found.heads, found.listings, found.refused) == (2, 0, 1, 0)
            assert (found.body_bytes, found.again_bytes) == (len(CONTENT) + 16, 16)


def fetched(server: ObjectServer, link: str, path: str, **headers: str) -> bytes:
    url = urllib.parse.urlsplit(f"{server.endpoint(link)}/{path}")
    assert url.hostname is not None
    connection = (
        HTTPSConnection(url.hostname, url.port, context=client_context(server.bundle))
        if url.scheme == "https"
        else HTTPConnection(url.hostname, url.port)
    )
    with contextlib.closing(connection):
        connection.request("GET", f"{url.path}?{url.query}", headers=headers)
        return connection.getresponse().read()


def test_a_connection_is_answered_again_and_again_and_a_request_may_come_in_parts(
    tmp_path: Path,
) -> None:
    with (
        DelayServer(str(tmp_path / "delay.sock"), 0.001) as delaying,
        socket.socket(socket.AF_UNIX) as asking,
    ):
        asking.connect(delaying.path)
        for parts in ((REQUEST,), (REQUEST[:9], REQUEST[9:])):
            for part in parts:
                asking.sendall(part)
            assert asking.recv(1024) == b"HTTP/1.1 204 No Content\r\n\r\n"


def test_who_leaves_before_its_delay_is_over_harms_nobody(tmp_path: Path) -> None:
    with DelayServer(str(tmp_path / "delay.sock"), 0.001) as delaying:
        with socket.socket(socket.AF_UNIX) as leaving:
            leaving.connect(delaying.path)
            leaving.sendall(REQUEST)
        with socket.socket(socket.AF_UNIX) as asking:
            asking.connect(delaying.path)
            asking.sendall(REQUEST)
            assert asking.recv(1024).startswith(b"HTTP/1.1 204")

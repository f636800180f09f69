"""Stores and proxies that send a byte now and then hold nobody up beyond a limit.

The sockets are real.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Final

import pytest

from streamer_client.contract.errors import SourceError
from streamer_client.storage.contract import StoredShard
from streamer_client.storage.http.dialect import Request
from streamer_client.storage.http.engine import HttpEngine
from streamer_client.storage.http.pool import ConnectionPool
from streamer_client.storage.http.proof import ObjectProof
from streamer_client.storage.http.proxies import proxies_of
from streamer_client.storage.http.reader import ObjectReader
from streamer_client.storage.http.retry import RetryPolicy
from streamer_client.storage.http.settings import HttpSettings
from tests.support.plain_dialect import PlainDialect
from tests.support.trickling_server import Trickle, TricklingServer, trickling_server

SIZE: Final = 1000
BODY: Final = bytes(index % 251 for index in range(SIZE))
WITHIN_S: Final = 5.0
"""Far less than the trickles below would take, which is some 20 s for each attempt."""


def start_of(request: str) -> int:
    found = re.search(r"Range: bytes=(\d+)-", request)
    return int(found[1]) if found else 0


def head(request: str) -> bytes:
    start = start_of(request)
    lines = (
        "HTTP/1.1 206 Partial Content",
        f"Content-Length: {SIZE - start}",
        f"Content-Range: bytes {start}-{SIZE - 1}/{SIZE}",
        'ETag: "x"',
        "Connection: close",
    )
    return "\r\n".join((*lines, "", "")).encode()


def chunks(request: str) -> Trickle:
    start = head(request).replace(b"Content-Length:", b"X-Length:").removesuffix(b"\r\n")
    single = b"".join(b"1\r\n%c\r\n" % each for each in BODY[start_of(request) :])
    return Trickle(start + b"Transfer-Encoding: chunked\r\n\r\n", single)


ENDLESS: Final = Trickle(b"HTTP/1.1 200 OK\r\n", b"X-More: and more\r\n" * 100)
REFUSAL: Final = Trickle(b"HTTP/1.1 500 No\r\nContent-Length: 1000\r\n\r\n", BODY)


def engine(deadline_s: float = 1.0, proxy: str = "") -> HttpEngine:
    settings = HttpSettings(
        connect_timeout_s=0.1,
        read_timeout_s=0.2,
        floor_bytes_s=10 * SIZE,  # an attempt at the whole body may take 0.4 s
        proxies=proxies_of({"ALL_PROXY": proxy}),
    )
    policy = RetryPolicy(max_attempts=3, first_delay_s=0.01, deadline_s=deadline_s)
    return HttpEngine(ConnectionPool(settings), PlainDialect(), policy)


def reader(server: TricklingServer, speaks: HttpEngine) -> ObjectReader:
    url = f"http://{server.address}/a"
    shard = StoredShard(url, SIZE, "x")
    return ObjectReader(speaks, shard, Request("GET", url, url), ObjectProof(SIZE, '"x"'))


@pytest.mark.parametrize(
    "answer",
    [
        lambda request: Trickle(slowly=head(request) + BODY),
        lambda request: Trickle(head(request), BODY[start_of(request) :]),
        lambda _: ENDLESS,
        chunks,
        lambda _: REFUSAL,
    ],
    ids=["head", "body", "headers without end", "chunks", "refusal"],
)
def test_a_store_that_trickles_is_given_up(answer: Callable[[str], Trickle]) -> None:
    with trickling_server(answer) as server:
        started_s = time.monotonic()
        with pytest.raises(SourceError, match=r"given up after \d+ attempts") as caught:
            reader(server, engine()).readinto(memoryview(bytearray(SIZE)), 0)
        assert time.monotonic() - started_s < WITHIN_S
    assert f"http://{server.address} sent too little" in str(caught.value)
    assert "fewer connections" in str(caught.value)
    assert len(server.requests) > 1


def test_a_trickling_proxy_before_a_store_is_given_up() -> None:
    with trickling_server(lambda _: ENDLESS) as proxy:
        speaks = engine(proxy=f"http://{proxy.address}")
        started_s = time.monotonic()
        with pytest.raises(SourceError, match="sent too little"):
            speaks.ask(Request("HEAD", "https://store.example/a", "a"))
        assert time.monotonic() - started_s < WITHIN_S
    assert all(request.startswith("CONNECT store.example:443") for request in proxy.requests)


def test_what_came_of_a_slow_attempt_stays_and_the_rest_alone_is_asked_for() -> None:
    at_once = 900

    def once_slow(request: str) -> Trickle:
        body = BODY[start_of(request) :]
        if start_of(request):
            return Trickle(head(request) + body)
        return Trickle(head(request) + body[:at_once], body[at_once:])

    with trickling_server(once_slow) as server:
        target = bytearray(SIZE)
        opened = reader(server, engine(deadline_s=5.0))
        assert opened.readinto(memoryview(target), 0) == SIZE
    assert target == BODY
    assert opened.retries == 1
    assert at_once < start_of(server.requests[1]) < SIZE


def test_a_slow_store_that_is_fast_enough_is_waited_for() -> None:
    with trickling_server(lambda request: Trickle(head(request) + BODY[:-8], BODY[-8:])) as server:
        target = bytearray(SIZE)
        assert reader(server, engine()).readinto(memoryview(target), 0) == SIZE
    assert target == BODY
    assert len(server.requests) == 1

"""The socket that Prometheus asks: who is slow, rude or too many harms nobody but scrapers."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Gauge
from tests.support.in_loop import in_loop, until

from streamer_client.contract.errors import ConfigError
from streamerd.observe import listener as module
from streamerd.observe.listener import MOST_ACCEPTED, MOST_CONNECTIONS, MetricsListener


class Served:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.gauge = Gauge("streamerd_x", "told", registry=self.registry)
        self.now_s = 0.0
        self.listener = MetricsListener(self.registry, lambda: self.now_s)

    async def ask(self, request: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(*self.place)
        writer.write(request)
        answer = await reader.read()
        writer.close()
        return answer

    @property
    def place(self) -> tuple[str, int]:
        address = self.listener.address
        assert isinstance(address, tuple)
        return address[0], address[1]

    def connect(self) -> socket.socket:
        made = socket.create_connection(self.place)
        made.setblocking(False)
        return made


@asynccontextmanager
async def served() -> AsyncIterator[Served]:
    made = Served()
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    made.listener.open(f"127.0.0.1:{port}", 0o600)
    try:
        yield made
    finally:
        made.listener.close()
        await until(lambda: not made.listener._serving)


GET = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"


@in_loop
async def test_metrics_are_told_and_made_anew_when_they_are_old() -> None:
    async with served() as made:
        made.gauge.set(1)
        first = await made.ask(GET)
        assert first.startswith(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=")
        assert b"\nstreamerd_x 1.0\n" in first
        made.gauge.set(2)
        assert b"\nstreamerd_x 1.0\n" in await made.ask(GET)
        made.now_s = 1.0
        assert b"\nstreamerd_x 2.0\n" in await made.ask(GET)
        assert (await made.ask(GET.replace(b"GET", b"HEAD"))).endswith(b"\r\n\r\n")


@in_loop
async def test_openmetrics_for_those_who_ask_for_it() -> None:
    async with served() as made:
        accept = b"Accept: application/openmetrics-text; version=1.0.0\r\n\r\n"
        answer = await made.ask(GET.removesuffix(b"\r\n") + accept)
        assert b"application/openmetrics-text" in answer
        assert answer.endswith(b"# EOF\n")


@pytest.mark.parametrize(
    ("request_text", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", b"404"),
        (b"POST /metrics HTTP/1.1\r\n\r\n", b"405"),
        (b"GET /metrics\r\n\r\n", b"400"),
        (b"\xff\x00nonsense\r\n\r\n", b"400"),
        (b"GET " + b"/" * module.MOST_HEAD_BYTES, b"400"),
    ],
)
def test_nonsense_is_refused(request_text: bytes, status: bytes) -> None:
    @in_loop
    async def ask() -> None:
        async with served() as made:
            assert (await made.ask(request_text)).startswith(b"HTTP/1.1 " + status)

    ask()


@in_loop
async def test_the_slow_are_few_and_are_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ANSWERED_S", 0.2)
    async with served() as made:
        slow = [made.connect() for _ in range(MOST_CONNECTIONS + 4)]
        await until(lambda: len(made.listener._serving) == MOST_CONNECTIONS)
        await until(lambda: not made.listener._serving)
        assert b"streamerd_x" in await made.ask(GET)
        for one in slow:
            one.close()


@in_loop
async def test_only_so_many_are_accepted_in_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COUNTED_S", 600.0)
    async with served() as made:
        for count in range(1, MOST_ACCEPTED + 1):
            made.connect().close()
            await until(lambda count=count: made.listener._accepted == count)  # type: ignore[misc]
        asking = asyncio.create_task(made.ask(GET))
        await until(lambda: not made.listener._serving)
        assert made.listener._accepted == MOST_ACCEPTED
        made.listener._accept_again()
        assert b"streamerd_x" in await asking


@in_loop
async def test_a_unix_socket_has_the_sockets_mode_and_goes_with_the_listener(
    tmp_path: Path,
) -> None:
    made, path = Served(), tmp_path / "m.sock"
    made.listener.open(str(path), 0o600)
    assert path.stat().st_mode & 0o777 == 0o600
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(GET)
    assert b"streamerd_x" in await reader.read()
    writer.close()
    made.listener.close()
    assert not path.exists()


@in_loop
async def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"metrics_listen: cannot listen on 127.0.0.1:{port}"):
            Served().listener.open(f"127.0.0.1:{port}", 0o600)

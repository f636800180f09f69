"""The socket of the metrics: slow, rude or too many clients harm only other scrapers."""

from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
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
    "accept",
    [
        b"text/plain;version=x.y.z",
        b"application/openmetrics-text;version=abc",
        b"application/openmetrics-text;version=1.0.0\nX-Evil: 1;escaping=zzz",
        b"application/openmetrics-text;version=2.0.0;escaping=allow-utf-8,*/*;q=",
        b";;,,==",
        b"\xff\xfe",
    ],
)
def test_no_accept_does_harm_or_comes_back(accept: bytes) -> None:
    @in_loop
    async def ask() -> None:
        async with served() as made:
            answer = await made.ask(GET.removesuffix(b"\r\n") + b"Accept: " + accept + b"\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
            assert b"X-Evil" not in answer
            assert len(made.listener._made) == 1

    ask()


@in_loop
async def test_forms_in_turn_are_not_made_more_often() -> None:
    async with served() as made:
        other = GET.removesuffix(b"\r\n") + b"Accept: application/openmetrics-text\r\n\r\n"
        await made.ask(GET)
        await made.ask(other)
        made.gauge.set(7)
        for request in (GET, other):
            assert b"\nstreamerd_x 0.0\n" in await made.ask(request)


class _Defective(Collector):
    def collect(self) -> Iterable[Metric]:
        raise KeyError("a defect")


@in_loop
async def test_a_defect_of_metrics_ends_a_scrape_and_not_the_daemon(
    caplog: pytest.LogCaptureFixture,
) -> None:
    met: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: met.append(context))
    async with served() as made:
        made.registry.register(_Defective())
        assert await made.ask(GET) == b""
    # asyncio reports an exception that nobody took from a task when the task is collected.
    gc.collect()
    await asyncio.sleep(0)
    assert not met
    assert "event=metrics_failed" in caplog.text


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


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_SEQPACKET])
def test_a_path_where_somebody_listens_is_left_to_them(
    tmp_path: Path, kind: socket.SocketKind
) -> None:
    """For example the daemon's own control socket, or the descriptor socket."""
    path = str(tmp_path / "control.sock")

    @in_loop
    async def try_it() -> None:
        with pytest.raises(ConfigError, match=f"metrics_listen: somebody listens at {path}"):
            Served().listener.open(path, 0o600)

    with socket.socket(socket.AF_UNIX, kind) as taken:
        taken.bind(path)
        taken.listen(0)
        try_it()
        try_it()  # the first call's connection has filled the queue


@in_loop
async def test_a_stale_socket_is_replaced_and_another_file_is_not(tmp_path: Path) -> None:
    path = tmp_path / "m.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    made = Served()
    made.listener.open(str(path), 0o600)
    made.listener.close()
    path.write_text("a file of somebody")
    with pytest.raises(ConfigError, match=r"metrics_listen: .* no socket; .* choose another path"):
        Served().listener.open(str(path), 0o600)
    assert path.read_text() == "a file of somebody"


@in_loop
async def test_an_address_of_ipv6() -> None:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6) as probe:
            port = probe.getsockname()[1]
    except OSError:
        pytest.skip("this machine has no IPv6")
    made = Served()
    made.listener.open(f"[::1]:{port}", 0o600)
    assert b"streamerd_x" in await made.ask(GET)
    made.listener.close()


@in_loop
async def test_what_was_just_accepted_is_closed_with_the_listener() -> None:
    async with served() as made:
        client = made.connect()
        await until(lambda: bool(made.listener._serving))
        made.listener.close()
        await until(lambda: not made.listener._serving)
        client.setblocking(True)
        assert client.recv(1) == b""
        client.close()

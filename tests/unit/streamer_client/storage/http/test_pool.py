"""The connection that carries a request, and the connections that are kept.

The connections are fakes.
"""

from __future__ import annotations

import http.client
from typing import cast

import pytest

from streamer_client.storage.http import pool as pool_module
from streamer_client.storage.http.dialect import Request
from streamer_client.storage.http.pool import (
    MAX_IDLE,
    MAX_IDLE_S,
    MAX_POOLS,
    ConnectionPool,
    pool_for,
)
from streamer_client.storage.http.settings import HttpSettings
from streamer_client.storage.http.transport.connection import HttpConnection
from streamer_client.storage.http.transport.deadline import Deadline
from streamer_client.storage.http.urls import Origin


class FakeExchange:
    status = 200
    reusable = True

    def finish(self) -> bool:
        return self.reusable


class FakeConnection:
    def __init__(self, origin: Origin, number: int) -> None:
        self.origin = origin
        self.number = number
        self.used = False
        self.stands = True
        self.closed = False
        self.failures: list[Exception] = []
        self.answer = FakeExchange()

    def exchange(self, _request: Request, _deadline: Deadline) -> FakeExchange:
        if self.failures:
            raise self.failures.pop(0)
        return self.answer

    def alive(self) -> bool:
        return self.stands

    def close(self) -> None:
        self.closed = True


class Net:
    """A pool whose connections the test makes."""

    def __init__(self) -> None:
        self.made: list[FakeConnection] = []
        self.failures: list[Exception] = []
        self.now_s = 0.0
        self.pool = ConnectionPool(HttpSettings(), make=self.make, clock=lambda: self.now_s)

    def make(self, origin: Origin, _settings: HttpSettings) -> HttpConnection:
        made = FakeConnection(origin, len(self.made))
        made.failures = self.failures
        self.made.append(made)
        return cast("HttpConnection", made)

    def ask(self, url: str = "http://h/a") -> None:
        with self.pool.send(Request("GET", url, url)):
            pass


@pytest.fixture
def net() -> Net:
    return Net()


def test_a_connection_is_kept_and_used_again(net: Net) -> None:
    net.ask()
    net.ask("http://h/b")
    assert len(net.made) == 1
    net.ask("http://h:81/a")
    assert len(net.made) == 2


def test_each_thread_at_work_has_its_own(net: Net) -> None:
    request = Request("GET", "http://h/a", "a")
    with net.pool.send(request), net.pool.send(request):
        assert len(net.made) == 2
    net.ask()
    assert len(net.made) == 2


def test_what_cannot_be_used_again_is_closed(net: Net) -> None:
    request = Request("GET", "http://h/a", "a")
    with net.pool.send(request):
        net.made[0].answer.reusable = False
    assert net.made[0].closed
    with pytest.raises(ValueError, match="inside"), net.pool.send(request):
        raise ValueError("inside")
    assert net.made[1].closed
    net.ask()
    assert len(net.made) == 3


def test_a_connection_that_died_while_idle_is_replaced_at_once(net: Net) -> None:
    net.ask()
    net.failures.append(http.client.RemoteDisconnected("gone"))
    net.ask()
    assert [made.closed for made in net.made] == [True, False]


def test_one_that_died_at_its_first_use_is_not(net: Net) -> None:
    net.failures.append(ConnectionResetError("gone"))
    with pytest.raises(ConnectionResetError):
        net.ask()
    assert len(net.made) == 1
    assert net.made[0].closed


def test_silence_is_no_sign_of_an_idle_death(net: Net) -> None:
    net.ask()
    net.failures.append(TimeoutError())
    with pytest.raises(TimeoutError):
        net.ask()


def test_a_closed_or_old_connection_is_not_tried(net: Net) -> None:
    net.ask()
    net.made[0].stands = False
    net.ask()
    assert len(net.made) == 2
    net.now_s += MAX_IDLE_S + 1
    net.ask()
    assert [made.closed for made in net.made] == [True, True, False]


def test_idle_connections_are_bounded(net: Net) -> None:
    for port in range(MAX_IDLE + 3):
        net.ask(f"http://h:{1000 + port}/")
    assert sum(not made.closed for made in net.made) == MAX_IDLE
    net.pool.close_idle()
    assert all(made.closed for made in net.made)
    net.ask()  # the pool stays usable


def test_who_ever_answered(net: Net) -> None:
    assert not net.pool.reached("http://h/x")
    net.ask()
    assert net.pool.reached("http://h/x")
    assert not net.pool.reached("https://h/x")


def test_one_pool_for_each_way_to_connect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "_pools", type(pool_module._pools)())
    first = pool_for(HttpSettings())
    assert pool_for(HttpSettings()) is first
    assert pool_for(HttpSettings(verify=False)) is not first
    for number in range(MAX_POOLS):
        pool_for(HttpSettings(read_timeout_s=number))
    assert pool_for(HttpSettings()) is not first

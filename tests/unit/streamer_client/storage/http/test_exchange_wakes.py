"""A body's reader is woken seldom, and always in the end. Socket and body are fakes."""

from __future__ import annotations

import http.client
import socket
from typing import cast

import pytest

from streamer_client.storage.http.transport.connection import Exchange

KIB = 1 << 10
SELDOM = 256 * KIB


class FakeSocket:
    """A socket that records SO_RCVLOWAT."""

    def __init__(self) -> None:
        self.low = 1

    def setsockopt(self, level: int, option: int, value: int) -> None:
        assert (level, option) == (socket.SOL_SOCKET, socket.SO_RCVLOWAT)
        self.low = value


class FakeBody:
    """A body that gives the listed pieces, and records SO_RCVLOWAT at each."""

    def __init__(self, connected: FakeSocket, counts: list[int]) -> None:
        self._socket = connected
        self._counts = counts
        self.waited_for: list[int] = []

    def readinto1(self, buffer: memoryview) -> int:
        self.waited_for.append(self._socket.low)
        return min(self._counts.pop(0), len(buffer))


class FakeResponse:
    status = 206
    will_close = False

    def __init__(self, length: int, body: FakeBody) -> None:
        self.length = length
        self.fp = body

    def getheaders(self) -> list[tuple[str, str]]:
        return []

    def close(self) -> None:
        pass


class Transfer:
    """A body of `length` bytes, received in pieces of `counts`."""

    def __init__(self, length: int, counts: list[int]) -> None:
        self.socket = FakeSocket()
        self.body = FakeBody(self.socket, counts)
        response = cast("http.client.HTTPResponse", FakeResponse(length, self.body))
        self.exchange = Exchange(response, cast("socket.socket", self.socket))
        with memoryview(bytearray(length)) as buffer:
            done = 0
            while done < length:
                done += self.exchange.readinto(buffer[done:])


def test_the_reader_sleeps_until_much_came_and_not_for_the_last_bytes() -> None:
    transfer = Transfer(1024 * KIB, [300 * KIB, 300 * KIB, 400 * KIB, 24 * KIB])
    assert transfer.body.waited_for == [SELDOM, SELDOM, 1, 1]


@pytest.mark.parametrize("length", [1, 64 * KIB, 2 * SELDOM - 1])
def test_short_bodies_are_never_waited_for(length: int) -> None:
    assert Transfer(length, [length]).body.waited_for == [1]


def test_what_is_held_back_on_the_way_is_never_waited_for() -> None:
    # Bytes may be held back in http.client's buffer and in an incomplete TLS record.
    held_back = 40 * KIB
    left = length = 4096 * KIB
    counts = [KIB] * (length // KIB)
    for waited_for in Transfer(length, counts).body.waited_for:
        assert waited_for == 1 or waited_for <= left - held_back
        left -= KIB


def test_the_next_answer_wakes_at_its_first_byte_though_the_body_came_at_once() -> None:
    transfer = Transfer(600 * KIB, [600 * KIB])
    assert transfer.body.waited_for == [SELDOM]
    assert transfer.exchange.finish()
    assert transfer.socket.low == 1

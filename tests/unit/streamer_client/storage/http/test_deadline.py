"""Reads that end with their attempt. Clock, stream and socket are fakes."""

from __future__ import annotations

import io
import socket
from typing import TYPE_CHECKING, cast

import pytest

from streamer_client.storage.http.transport.deadline import Deadline, TooSlow, timed

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

SILENCE_S = 30.0


class Trickle(io.RawIOBase):
    """A socket and its stream: a byte comes every `every_s` seconds, unless the timeout comes
    first.
    """

    def __init__(self, every_s: float) -> None:
        self.now_s = 1000.0
        self.every_s = every_s
        self.timeout_s: float = SILENCE_S

    def readable(self) -> bool:
        return True

    def gettimeout(self) -> float:
        return self.timeout_s

    def settimeout(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s

    def readinto(self, buffer: WriteableBuffer) -> int:
        self.now_s += min(self.every_s, self.timeout_s)
        if self.every_s >= self.timeout_s:
            raise TimeoutError("timed out")
        memoryview(buffer).cast("B")[:1] = b"x"
        return 1


def answer(trickle: Trickle, allowed_s: float) -> io.BufferedReader:
    deadline = Deadline(allowed_s, lambda: trickle.now_s)
    below = io.BufferedReader(trickle)
    return timed(below, cast("socket.socket", trickle), deadline)


def test_a_byte_now_and_then_is_no_answer() -> None:
    trickle = Trickle(every_s=29.0)
    with answer(trickle, allowed_s=100.0) as stream, pytest.raises(TooSlow, match="after 100 s"):
        stream.readline()  # http.client reads the head of an answer by lines
    assert trickle.now_s == 1000.0 + 100.0


def test_what_is_over_is_not_even_waited_for() -> None:
    trickle = Trickle(every_s=1.0)
    with answer(trickle, allowed_s=5.0) as stream:
        trickle.now_s += 5.0
        with pytest.raises(TooSlow):
            stream.read1(1)
    assert trickle.now_s == 1005.0


def test_silence_is_told_as_such() -> None:
    trickle = Trickle(every_s=31.0)
    with answer(trickle, allowed_s=100.0) as stream, pytest.raises(TimeoutError) as caught:
        stream.read1(1)
    assert not isinstance(caught.value, TooSlow)
    assert trickle.timeout_s == SILENCE_S


def test_what_comes_in_time_comes() -> None:
    trickle = Trickle(every_s=1.0)
    with answer(trickle, allowed_s=10.5) as stream:
        assert stream.read(10) == b"x" * 10
    assert trickle.closed

"""The cap on remote reads, by a clock that only the test moves."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamerd.reading.bandwidth import BURST_S, Pace, TokenBucket

MB = 10**6


class Clock:
    """The time in seconds, and the calls that are due at later times."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.due: list[tuple[float, Callable[[], None]]] = []

    def __call__(self) -> float:
        return self.now_s

    def call_later(self, delay: float, callback: Callable[[], None]) -> None:
        self.due.append((self.now_s + delay, callback))

    def advance(self, until_s: float) -> None:
        """Let time pass, and make the calls that become due."""
        while self.due and min(self.due, key=lambda each: each[0])[0] <= until_s:
            next_due = min(self.due, key=lambda each: each[0])
            self.due.remove(next_due)
            self.now_s = max(self.now_s, next_due[0])
            next_due[1]()
        self.now_s = until_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def paced(clock: Clock, bytes_per_s: int) -> tuple[Pace, list[tuple[float, int]]]:
    """A pace, and the time at which each read began, by size."""
    return Pace(TokenBucket(bytes_per_s, clock), clock.call_later), []


def begin(pace: Pace, begun: list[tuple[float, int]], clock: Clock, size_bytes: int) -> None:
    pace.begin(size_bytes, lambda: begun.append((clock.now_s, size_bytes)))


def test_without_a_cap_everything_begins_at_once(clock: Clock) -> None:
    pace, begun = paced(clock, 0)
    for _ in range(100):
        begin(pace, begun, clock, 8 * MB)
    assert len(begun) == 100
    assert clock.due == []


def test_blocks_come_at_the_rate_in_their_order(clock: Clock) -> None:
    pace, begun = paced(clock, 8 * MB)
    for size in (8 * MB, 8 * MB + 1, 8 * MB + 2, 8 * MB + 3):
        begin(pace, begun, clock, size)
    clock.advance(10)
    assert [size - 8 * MB for _, size in begun] == [0, 1, 2, 3]
    assert [after[0] - before[0] for before, after in pairwise(begun[1:])] == pytest.approx(
        [1.0, 1.0], abs=2e-3
    )


@given(
    sizes=st.lists(st.integers(1, 16 * MB), min_size=1, max_size=40),
    pauses=st.lists(st.floats(0, 5), min_size=40, max_size=40),
    rate=st.integers(MB // 10, 100 * MB),
)
def test_no_stretch_of_time_takes_more_than_the_rate_a_burst_and_one_read(
    sizes: list[int], pauses: list[float], rate: int
) -> None:
    clock = Clock()
    pace, begun = paced(clock, rate)
    for size, pause in zip(sizes, pauses, strict=False):
        begin(pace, begun, clock, size)
        clock.advance(clock.now_s + pause)
    clock.advance(clock.now_s + sum(sizes) / rate + 1.1)
    assert [size for _, size in begun] == sizes
    for first in range(len(begun)):
        for last in range(first, len(begun)):
            stretch_s = begun[last][0] - begun[first][0]
            taken = sum(size for _, size in begun[first:last])
            most = rate * (stretch_s + BURST_S) + max(sizes)
            assert taken <= most * (1 + 1e-6)


def test_a_new_cap_counts_at_once_also_for_what_waits(clock: Clock) -> None:
    pace, begun = paced(clock, 1)
    for _ in range(4):
        begin(pace, begun, clock, MB)
    clock.advance(5)
    assert len(begun) == 1
    pace.set_rate(MB)
    assert pace.bytes_per_s == MB
    clock.advance(9)
    assert len(begun) == 4
    begin(pace, begun, clock, 100 * MB)
    begin(pace, begun, clock, MB)
    pace.set_rate(0)
    assert len(begun) == 6


def test_idling_saves_up_no_more_than_a_burst(clock: Clock) -> None:
    pace, begun = paced(clock, 10 * MB)
    clock.advance(3600)
    for _ in range(30):
        begin(pace, begun, clock, MB)
    assert len(begun) == 2  # one read takes the burst, and one goes beyond it

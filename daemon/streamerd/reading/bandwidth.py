"""Limits the bytes a second from remote sources, and measures how fast a shard arrives.

This module owns the cap (a token bucket, and the reads that wait for it) and the rate that `status`
shows. The bucket and the rate are pure: their callers pass the time. `Pace` runs in the daemon's
loop.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

BURST_S: Final = 0.1
"""After a pause, the bytes that the cap allows in this many seconds may come at once."""

LEAST_WAIT_S: Final = 0.001
"""The shortest wait in seconds. A shorter one might be less than the clock's resolution, and be
repeated again and again. A wait that is too long loses nothing, as the bucket fills meanwhile."""
WINDOW_S: Final = 5.0
"""A shard's rate is measured over this many of the last seconds."""


class TokenBucket:
    """Says when the next read may begin so that, over time, no more than the rate is read.

    A read takes all its bytes from the bucket when it begins. If the bucket has fewer, the bucket
    goes into debt, and later reads wait until the debt is paid. So the reads that begin within any
    `t` seconds have at most `rate * (t + burst)` bytes and those of one more read.

    Args:
        bytes_per_s: the rate; 0 for no cap.
        clock: returns seconds that only go forward.
    """

    def __init__(self, bytes_per_s: int, clock: Callable[[], float]) -> None:
        self.bytes_per_s = bytes_per_s
        self._clock = clock
        self._level_bytes = bytes_per_s * BURST_S
        self._seen_s = clock()

    def set_rate(self, bytes_per_s: int) -> None:
        """Use another rate from now on. A debt is dropped, since it was counted at the old rate."""
        self.bytes_per_s = bytes_per_s
        self._level_bytes = 0.0
        self._seen_s = self._clock()

    def wait_s(self) -> float:
        """Seconds until the next read may begin; 0.0 if it may begin now."""
        if not self.bytes_per_s:
            return 0.0
        now_s = self._clock()
        earned = (now_s - self._seen_s) * self.bytes_per_s
        self._level_bytes = min(self._level_bytes + earned, self.bytes_per_s * BURST_S)
        self._seen_s = now_s
        if self._level_bytes >= 0.0:
            return 0.0
        return max(LEAST_WAIT_S, -self._level_bytes / self.bytes_per_s)

    def take(self, size_bytes: int) -> None:
        """Note that a read of `size_bytes` begins."""
        if self.bytes_per_s:
            self._level_bytes -= size_bytes


class CallLater(Protocol):
    """The part of `loop.call_later` that is used here."""

    def __call__(self, delay: float, callback: Callable[[], None], /) -> object: ...


class Pace:
    """Begins reads in the order in which they come, as the bucket allows."""

    def __init__(self, bucket: TokenBucket, call_later: CallLater) -> None:
        self._bucket = bucket
        self._call_later = call_later
        self._waiting: deque[tuple[int, Callable[[], None]]] = deque()
        self._due = False

    @property
    def bytes_per_s(self) -> int:
        """The cap in bytes a second; 0 for none."""
        return self._bucket.bytes_per_s

    def begin(self, size_bytes: int, read: Callable[[], None]) -> None:
        """Call `read` as soon as the bucket allows its bytes."""
        self._waiting.append((size_bytes, read))
        if not self._due:
            self._go_on()

    def set_rate(self, bytes_per_s: int) -> None:
        """Use another cap, also for the reads that wait already."""
        if bytes_per_s != self._bucket.bytes_per_s:
            self._bucket.set_rate(bytes_per_s)
            self._go_on()

    def _go_on(self) -> None:
        self._due = False
        while self._waiting:
            wait_s = self._bucket.wait_s()
            if wait_s > 0.0:
                self._due = True
                self._call_later(wait_s, self._go_on)
                return
            size_bytes, read = self._waiting.popleft()
            self._bucket.take(size_bytes)
            read()


class Rate:
    """Bytes a second over a sliding window. The caller passes the time."""

    def __init__(self) -> None:
        self._arrivals: deque[tuple[float, int]] = deque()
        self._sum_bytes = 0
        self._since_s: float | None = None

    def add(self, at_s: float, size_bytes: int) -> None:
        """Note bytes that arrived."""
        if self._since_s is None:
            self._since_s = at_s
        self._arrivals.append((at_s, size_bytes))
        self._sum_bytes += size_bytes
        if self._arrivals[0][0] < at_s - WINDOW_S:
            self._expire(at_s)

    def bytes_per_s(self, now_s: float) -> float:
        """The present rate; 0 if no bytes arrived within the window."""
        self._expire(now_s)
        if not self._arrivals or self._since_s is None:
            self._since_s = None
            return 0.0
        # The rate of a shard that began to arrive within the window is measured over that time.
        return self._sum_bytes / min(WINDOW_S, max(now_s - self._since_s, 0.1))

    def _expire(self, now_s: float) -> None:
        while self._arrivals and self._arrivals[0][0] < now_s - WINDOW_S:
            self._sum_bytes -= self._arrivals.popleft()[1]

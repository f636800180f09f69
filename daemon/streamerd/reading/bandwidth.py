"""Bytes a second: how many may come from remote sources, and how fast a shard arrives.

Owns the cap (a token bucket, and the reads that wait for it) and the rate that `status` shows. The
bucket and the rate are pure: their time is handed in. The pace runs in the daemon's loop.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

BURST_S: Final = 0.1
"""After a pause, the bytes of this many seconds may come at once."""

LEAST_WAIT_S: Final = 0.001
"""Least time to wait: a shorter one might be less than the clock can tell, and be waited for again
and again. Whoever waits longer than needed loses nothing, as the bucket fills meanwhile."""
WINDOW_S: Final = 5.0
"""A shard's rate is measured over the last so many seconds."""


class TokenBucket:
    """Says when the next read may begin so that, over time, no more than the rate is read.

    A read is taken as a whole when it begins, and what it takes beyond what is there is paid for by
    those that come after. So in any stretch of `t` seconds no more begins than `rate * (t + burst)`
    and one read.

    Args:
        bytes_per_s: the rate; 0 for no cap.
        clock: seconds that only go forward.
    """

    def __init__(self, bytes_per_s: int, clock: Callable[[], float]) -> None:
        self.bytes_per_s = bytes_per_s
        self._clock = clock
        self._level_bytes = bytes_per_s * BURST_S
        self._seen_s = clock()

    def set_rate(self, bytes_per_s: int) -> None:
        """Take another rate from now on; a debt is forgiven, as it counted the old one."""
        self.bytes_per_s = bytes_per_s
        self._level_bytes = 0.0
        self._seen_s = self._clock()

    def wait_s(self) -> float:
        """Seconds until the next read may begin; 0.0 for now."""
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
        """Note that a read of so many bytes begins."""
        if self.bytes_per_s:
            self._level_bytes -= size_bytes


class CallLater(Protocol):
    """`loop.call_later`, as far as it is used here."""

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
        """The cap; 0 for none."""
        return self._bucket.bytes_per_s

    def begin(self, size_bytes: int, read: Callable[[], None]) -> None:
        """Call `read` as soon as its bytes may come."""
        self._waiting.append((size_bytes, read))
        if not self._due:
            self._go_on()

    def set_rate(self, bytes_per_s: int) -> None:
        """Take another cap, also for what waits."""
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
    """Bytes a second over a sliding window; the caller brings the time."""

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
        self._expire(at_s)

    def bytes_per_s(self, now_s: float) -> float:
        """The rate now; 0 when nothing came within the window."""
        self._expire(now_s)
        if not self._arrivals or self._since_s is None:
            self._since_s = None
            return 0.0
        # A load younger than the window is measured over its own age.
        return self._sum_bytes / min(WINDOW_S, max(now_s - self._since_s, 0.1))

    def _expire(self, now_s: float) -> None:
        while self._arrivals and self._arrivals[0][0] < now_s - WINDOW_S:
            self._sum_bytes -= self._arrivals.popleft()[1]

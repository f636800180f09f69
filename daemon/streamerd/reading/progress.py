"""How fast shards arrive: bytes of the last few seconds, for `status`."""

from __future__ import annotations

from collections import deque
from typing import Final

WINDOW_S: Final = 5.0


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

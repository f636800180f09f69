"""Computes how fast the node reads and serves from successive statuses. Pure; time is handed in."""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

from streamer_client.contract.status import SourceStatus, StatusDocument

WINDOW_S: Final = 5.0
"""Rates are means over this many seconds."""


class NodeRates(NamedTuple):
    """Rates of the whole node, in bytes a second."""

    read: float = 0.0
    served: float = 0.0


class Rates:
    """Remembers the statuses of the last `WINDOW_S`, from which the node's rates follow."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int, int]] = deque()
        self._pid = 0
        self._uptime_s = 0.0

    def see(self, status: StatusDocument, now_s: float) -> NodeRates:
        """Take a status in, and return the rates.

        The counters of a daemon that was started again begin at zero. Its pid alone does not tell
        that, since it may be the same each time in a container.
        """
        if status.pid != self._pid or status.uptime_s < self._uptime_s:
            self._seen.clear()
        self._pid, self._uptime_s = status.pid, status.uptime_s
        totals = status.totals
        self._seen.append((now_s, totals.source_read_bytes, totals.served_bytes))
        while len(self._seen) > 2 and self._seen[1][0] <= now_s - WINDOW_S:
            self._seen.popleft()
        since_s, read, served = self._seen[0]
        if now_s <= since_s:
            return NodeRates()
        passed_s = now_s - since_s
        return NodeRates(
            (totals.source_read_bytes - read) / passed_s, (totals.served_bytes - served) / passed_s
        )


def source_rate(source: SourceStatus) -> float:
    """Bytes of a source that arrive in a second."""
    return sum(shard.bytes_per_s or 0.0 for shard in source.shards)


def source_eta_s(source: SourceStatus) -> float | None:
    """Seconds until all shards that loads ask for are resident; None if nothing arrives."""
    rate = source_rate(source)
    missing = sum(
        shard.size_bytes - shard.resident_bytes
        for shard in source.shards
        if shard.state in ("queued", "streaming")
    )
    return missing / rate if rate and missing else None

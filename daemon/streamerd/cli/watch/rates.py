"""How fast the node reads and serves, from one status to the next. Pure; time is handed in."""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

from streamer_client.contract.status import SourceStatus, StatusDocument

WINDOW_S: Final = 5.0
"""Rates are means over so many seconds."""


class NodeRates(NamedTuple):
    """Bytes a second of the whole node."""

    read: float = 0.0
    served: float = 0.0


class Rates:
    """The node's rates, as far back as they count."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int, int]] = deque()
        self._pid = 0
        self._uptime_s = 0.0

    def see(self, status: StatusDocument, now_s: float) -> NodeRates:
        """Take a status in; a daemon that was started again counts from zero.

        In a container it has the same pid each time.
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
    """Bytes a second that arrive of a source."""
    return sum(shard.bytes_per_s or 0.0 for shard in source.shards)


def source_eta_s(source: SourceStatus) -> float | None:
    """When all of its shards that loads ask for will be there; None where nothing arrives."""
    rate = source_rate(source)
    missing = sum(
        shard.size_bytes - shard.resident_bytes
        for shard in source.shards
        if shard.state in ("queued", "streaming")
    )
    return missing / rate if rate and missing else None

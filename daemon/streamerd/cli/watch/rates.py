"""Computes how fast the node and each source get on from successive statuses.

Pure; time is handed in.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from streamer_client.contract.status import ShardState, SourceStatus, StatusDocument

WINDOW_S: Final = 5.0
"""Rates are means over this many seconds."""
_MOVING: Final = (ShardState.QUEUED, ShardState.STREAMING)


class NodeRates(NamedTuple):
    """Rates of the whole node, in bytes a second."""

    read: float = 0.0
    served: float = 0.0
    arriving: Mapping[str, float] = MappingProxyType({})
    """By how much each source's resident bytes grow, by the source's URI."""


class _Look(NamedTuple):
    at_s: float
    read_bytes: int
    served_bytes: int
    resident_bytes: Mapping[str, int]


class Rates:
    """Remembers the statuses of the last `WINDOW_S`, from which the node's rates follow."""

    def __init__(self) -> None:
        self._seen: deque[_Look] = deque()
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
        resident = {
            source.uri: sum(shard.resident_bytes for shard in source.shards)
            for source in status.sources
        }
        now = _Look(now_s, totals.source_read_bytes, totals.served_bytes, resident)
        self._seen.append(now)
        while len(self._seen) > 2 and self._seen[1].at_s <= now_s - WINDOW_S:
            self._seen.popleft()
        first = self._seen[0]
        if now_s <= first.at_s:
            return NodeRates()
        passed_s = now_s - first.at_s
        return NodeRates(
            (now.read_bytes - first.read_bytes) / passed_s,
            (now.served_bytes - first.served_bytes) / passed_s,
            {
                uri: (size_bytes - first.resident_bytes.get(uri, 0)) / passed_s
                for uri, size_bytes in resident.items()
            },
        )


def source_rate(source: SourceStatus, rates: NodeRates) -> float:
    """Bytes of a source that arrive in a second; zero if none of its shards is being read.

    The daemon tells the rates of the shards that it reads now. In a source of many small shards
    most bytes of the last seconds belong to shards that are complete. In a source that goes through
    a window, what is resident does not grow. So the larger of the two is right.
    """
    told = sum(shard.bytes_per_s or 0.0 for shard in source.shards)
    moves = any(shard.state in _MOVING for shard in source.shards)
    return max(told, rates.arriving.get(source.uri, 0.0)) if moves else told


def source_eta_s(source: SourceStatus, rates: NodeRates) -> float | None:
    """Seconds until all shards that loads ask for are resident; None if nothing arrives."""
    rate = source_rate(source, rates)
    missing = sum(
        shard.size_bytes - shard.resident_bytes for shard in source.shards if shard.state in _MOVING
    )
    return missing / rate if rate and missing else None

"""Counts what was read from sources, by kind of source.

Modules that read add to these counters; `status`, the metrics and the records of loads look at
them. There are few kinds (`file` and the schemes of stores), so the counters do not grow with the
number of reads. Pure; used in the daemon's loop.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

import msgspec

from streamer_client.contract.uris import scheme_of
from streamerd.state.events import LoadKey

FILE_KIND: Final = "file"
PEER_KIND: Final = "peer"
"""The kind under which bytes from other nodes are counted."""
LATENCY_BOUNDS_S: Final = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0,
)  # fmt: skip


class Histogram:
    """Counts values between bounds, and sums them, for a histogram of Prometheus.

    Args:
        bounds: ascending bounds; a value counts for the first bound that it does not exceed.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        """Number of values for each bound, and at the end of those that exceed the last bound."""
        self.sum = 0.0

    def add(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


class Read(msgspec.Struct, frozen=True, gc=False):
    """One block that a worker read, in seconds of the loop's clock."""

    load: LoadKey
    """The load for which the block was read."""
    kind: str
    size_bytes: int
    device_bytes: int
    asked_s: float
    began_s: float
    """When a worker's thread began the read."""
    ended_s: float
    worker: int
    """The worker's pid."""
    thread: int
    """The thread's number, as the kernel has it."""


@dataclass(slots=True)
class KindTotals:
    """Reads from one kind of source."""

    source_bytes: int = 0
    device_bytes: int = 0
    requests: int = 0
    retries: int = 0
    latency: Histogram = field(default_factory=lambda: Histogram(LATENCY_BOUNDS_S))
    """Seconds for each block from the request to a worker until its answer."""


def _nobody(_read: Read) -> None:
    """The initial `on_read`, which ignores the read."""


@dataclass(slots=True)
class ReadTotals:
    """Counters of all reads since the daemon's start."""

    kinds: defaultdict[str, KindTotals] = field(default_factory=lambda: defaultdict(KindTotals))
    proof_bytes: int = 0
    """Bytes that were read again to compare them with memory, because their file was touched."""
    on_read: Callable[[Read], None] = _nobody
    """Called with each read that brought a block."""

    def add(self, read: Read) -> None:
        """Count a read that brought a block."""
        totals = self.kinds[read.kind]
        totals.source_bytes += read.size_bytes
        totals.device_bytes += read.device_bytes
        totals.latency.add(read.ended_s - read.asked_s)
        self.on_read(read)

    @property
    def source_bytes(self) -> int:
        return sum(totals.source_bytes for totals in self._sources())

    @property
    def device_bytes(self) -> int:
        return sum(totals.device_bytes for totals in self._sources())

    @property
    def requests(self) -> int:
        return sum(totals.requests for totals in self._sources())

    @property
    def retries(self) -> int:
        return sum(totals.retries for totals in self._sources())

    def _sources(self) -> list[KindTotals]:
        """The counters of all kinds of sources; other nodes are no source."""
        return [totals for kind, totals in self.kinds.items() if kind != PEER_KIND]


@lru_cache(maxsize=1 << 12)
def kind_of(uri: str) -> str:
    """The kind of source that a shard is read from."""
    return scheme_of(uri) or FILE_KIND

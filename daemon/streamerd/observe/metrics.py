"""Makes the metrics for Prometheus: the daemon's counters as families of the official library.

This module owns the names, help texts and labels of the metrics. It uses a registry of its own,
since the library's default one would add metrics of the process. Each label has a few values (kinds
of source, codes of errors, reasons), and never names a path, a user or a process. The names must
stay: `docs/operations.md` lists them, and `deploy/grafana/` uses them. A family whose values have
not changed is the same object as before, so that its text need not be made anew (`exposition.py`).
Runs in the daemon's loop, and only reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector, CollectorRegistry

from streamer_client.contract.status import FleetStatus, MemoryStatus, TotalsStatus
from streamerd import __version__
from streamerd.answering.status import Facts, status_fleet, status_memory, status_totals
from streamerd.observe.watch import Watch
from streamerd.reading.totals import FILE_KIND, Histogram
from streamerd.state.events import FailureKind

PREFIX: Final = "streamerd_"
REQUEST: Final = "request"
"""The reason of a retry that the storage code made by itself, after a request failed."""
_RETRIES: Final = {
    FailureKind.NO_SPACE.value: "no_room_in_shared_memory",
    FailureKind.WORKER_LOST.value: "worker_died",
    FailureKind.EXPIRED.value: "credentials_expired",
}


@dataclass(frozen=True, slots=True)
class Observed:
    """The parts of the daemon that metrics are read from."""

    facts: Facts
    watch: Watch
    refused: Mapping[str, int]
    """Number of refused requests, by the error's code."""
    started_at_s: float
    """The unix time of the daemon's start."""


class DaemonCollector(Collector):
    """Gives the families as they are at each scrape."""

    def __init__(self, observed: Observed) -> None:
        self._observed = observed
        self._families = Families()

    def collect(self) -> Iterable[Metric]:
        """All families, with their present values."""
        facts, watch, made = self._observed.facts, self._observed.watch, self._families
        totals = status_totals(facts)
        yield made.gauges("build_info", "1, with the daemon's version", "version", {__version__: 1})
        yield made.gauge(
            "start_time_seconds", "Unix time of its start", self._observed.started_at_s
        )
        yield from _memory(made, status_memory(facts))
        yield from _reading(made, facts)
        yield from _cache(made, totals)
        yield from _troubles(made, facts, totals)
        yield made.counters(
            "requests_refused",
            "Requests of clients that were refused, by the error's code",
            "code",
            self._observed.refused,
        )
        yield from _loads(made, facts, watch, totals)
        yield from _processes(made, facts, totals)
        fleet = status_fleet(facts)
        if fleet is not None:
            yield from fleet_families(made, fleet)


def registry(observed: Observed) -> CollectorRegistry:
    """A registry with the daemon's metrics and no others."""
    made = CollectorRegistry(auto_describe=False)
    made.register(DaemonCollector(observed))
    return made


def _memory(made: Families, memory: MemoryStatus) -> Iterator[Metric]:
    yield made.gauge("memory_limit_bytes", "The memory limit", memory.limit_bytes)
    yield made.gauge(
        "memory_used_bytes", "Reserved, resident, or on its way back", memory.used_bytes
    )
    yield made.gauge("memory_leased_bytes", "Resident and leased by a load", memory.leased_bytes)
    yield made.gauge("memory_pinned_bytes", "Resident and pinned", memory.pinned_bytes)
    yield made.gauge("memory_committed_bytes", "Promised to loads and pins", memory.committed_bytes)
    yield made.gauge(
        "memory_lingering_bytes",
        "Given up, and still mapped by clients of an earlier daemon; beside the limit",
        memory.lingering_bytes,
    )


def _reading(made: Families, facts: Facts) -> Iterator[Metric]:
    kinds = facts.totals.kinds
    read = {kind: totals.source_bytes for kind, totals in kinds.items()} or {FILE_KIND: 0}
    device = {kind: totals.device_bytes for kind, totals in kinds.items()} or {FILE_KIND: 0}
    requests = {kind: totals.requests for kind, totals in kinds.items()} or {FILE_KIND: 0}
    yield made.counters("source_read_bytes", "Read from sources", "kind", read)
    yield made.counters(
        "source_device_bytes", "Of these, from the device or the network", "kind", device
    )
    yield made.counters("source_requests", "Reads, one a block", "kind", requests)
    yield made.counter(
        "source_proof_bytes", "Read once more to take checksums again", facts.totals.proof_bytes
    )
    latencies = {kind: totals.latency for kind, totals in kinds.items()}
    yield made.histograms(
        "block_read_seconds", "From the request for a block until it is in memory", latencies
    )


def _cache(made: Families, totals: TotalsStatus) -> Iterator[Metric]:
    yield made.counter("served_bytes", "Granted to loads", totals.served_bytes)
    yield made.counter("block_hits", "Wanted blocks in memory or on their way", totals.block_hits)
    yield made.counter("block_misses", "Wanted blocks that had to be read", totals.block_misses)
    yield made.counter(
        "evicted_bytes", "Given up for other blocks, or by evict", totals.evicted_bytes
    )


def _troubles(made: Families, facts: Facts, totals: TotalsStatus) -> Iterator[Metric]:
    counted = facts.model.totals
    retries = {name: counted.retries_by_reason[kind] for kind, name in _RETRIES.items()}
    retries[REQUEST] = totals.retries - sum(retries.values())
    yield made.counters("retries", "Reads that were tried again", "reason", retries)
    yield made.counters(
        "errors", "Shards that failed, by the error's code", "code", dict(counted.errors_by_code)
    )


def _loads(made: Families, facts: Facts, watch: Watch, totals: TotalsStatus) -> Iterator[Metric]:
    running = len(facts.model.loads) - len(facts.model.waiting)
    yield made.gauge("loads_running", "Loads and prefetches that are open and admitted", running)
    yield made.gauges("loads_waiting", "Loads that wait for this", "reason", watch.waiting())
    yield made.counters_of_two(
        "loads", "Loads that are over", ("kind", "outcome"), watch.totals.outcomes
    )
    names = ("memory", "source", "other_load", "other_node")
    origins = {name: watch.totals.origins[name] for name in names}
    yield made.counters(
        "load_bytes", "Served to loads that are over, by where it came from", "origin", origins
    )
    yield _copied(made, totals)
    yield made.histograms("load_seconds", "Of loads that ended well", watch.totals.seconds)


def _copied(made: Families, totals: TotalsStatus) -> Metric:
    page_cache, direct = totals.copied_page_cache_bytes, totals.copied_direct_bytes
    origins = {
        "daemon": max(0, totals.copied_bytes - page_cache - direct),
        "page_cache": page_cache,
        "direct": direct,
    }
    return made.counters(
        "copied_bytes",
        "Of tensors, by clients, as they told, by where they had it from",
        "origin",
        origins,
    )


def _processes(made: Families, facts: Facts, totals: TotalsStatus) -> Iterator[Metric]:
    yield made.gauge("clients", "Connected clients", len(facts.sessions))
    yield made.gauge("workers", "Fetch processes that run", len(facts.workers.pids))
    yield made.counter("worker_restarts", "Fetch processes started again", totals.worker_restarts)
    yield made.counter(
        "lost_threads", "Threads given up with a file system that hangs", totals.lost_threads
    )
    yield made.counter(
        "retired_workers", "Fetch processes replaced for lost threads", totals.retired_workers
    )


def fleet_families(made: Families, fleet: FleetStatus) -> Iterator[Metric]:
    """The families that are told if a fleet is configured."""
    yield made.gauge(
        "fleet_members",
        "Nodes of the fleet that are known, this one among them",
        len(fleet.members),
    )
    yield made.gauge("fleet_serving", "1 while other nodes can ask this one", int(fleet.serving))
    yield made.gauge("fleet_connections", "Connections of other nodes", fleet.connections)
    yield made.counter("fleet_received_bytes", "Of blocks that other nodes sent", fleet.peer_bytes)
    yield made.counter("fleet_sent_bytes", "Of blocks, to other nodes", fleet.sent_bytes)
    yield made.counter(
        "fleet_store_bytes", "Of blocks of remote objects that the store sent", fleet.store_bytes
    )
    yield made.counters(
        "fleet_store_reads",
        "Blocks read from the store, by why no other node sent them",
        "reason",
        fleet.store_reads,
    )
    yield made.counters("fleet_answers", "To other nodes' questions", "answer", fleet.answers)
    yield made.counter("fleet_restarts", "Of the process that serves other nodes", fleet.restarts)


# --- families -------------------------------------------------------------------------------------


class Families:
    """Makes families, and gives the same object again until a family's values change."""

    def __init__(self) -> None:
        self._made: dict[str, tuple[object, Metric]] = {}
        """The values that each family was last made of, and the family, by its name."""

    def gauge(self, name: str, told: str, value: float) -> Metric:
        """A gauge without labels."""
        return self._kept(name, value, lambda: GaugeMetricFamily(PREFIX + name, told, value=value))

    def counter(self, name: str, told: str, value: float) -> Metric:
        """A counter without labels."""
        return self._kept(
            name, value, lambda: CounterMetricFamily(PREFIX + name, told, value=value)
        )

    def gauges(self, name: str, told: str, label: str, values: Mapping[str, float]) -> Metric:
        """A gauge for each value of a label."""
        return self._labelled(GaugeMetricFamily, name, told, (label,), _rows(values))

    def counters(self, name: str, told: str, label: str, values: Mapping[str, float]) -> Metric:
        """A counter for each value of a label."""
        return self._labelled(CounterMetricFamily, name, told, (label,), _rows(values))

    def counters_of_two(
        self,
        name: str,
        told: str,
        labels: tuple[str, str],
        values: Mapping[tuple[str, str], float],
    ) -> Metric:
        """A counter for each pair of values of two labels."""
        return self._labelled(CounterMetricFamily, name, told, labels, sorted(values.items()))

    def histograms(self, name: str, told: str, by_kind: Mapping[str, Histogram]) -> Metric:
        """A histogram for each kind of source."""
        values = {kind: (each.sum, *each.counts) for kind, each in by_kind.items()}
        return self._kept(name, values, lambda: _histograms(name, told, by_kind))

    def _kept(self, name: str, values: object, make: Callable[[], Metric]) -> Metric:
        told, metric = self._made.get(name, (None, None))
        if metric is None or told != values:
            metric = make()
            self._made[name] = values, metric
        return metric

    def _labelled(
        self,
        family: type[GaugeMetricFamily | CounterMetricFamily],
        name: str,
        told: str,
        labels: tuple[str, ...],
        rows: Sequence[tuple[tuple[str, ...], float]],
    ) -> Metric:
        def make() -> Metric:
            made = family(PREFIX + name, told, labels=labels)
            for values, number in rows:
                made.add_metric(values, number)
            return made

        return self._kept(name, rows, make)


def _rows(values: Mapping[str, float]) -> list[tuple[tuple[str], float]]:
    return [((value,), number) for value, number in sorted(values.items())]


def _histograms(name: str, told: str, by_kind: Mapping[str, Histogram]) -> Metric:
    made = HistogramMetricFamily(PREFIX + name, told, labels=("kind",))
    for kind, histogram in sorted(by_kind.items()):
        buckets, below = [], 0
        for bound, count in zip((*histogram.bounds, float("inf")), histogram.counts, strict=True):
            below += count
            buckets.append(("+Inf" if bound == float("inf") else str(bound), float(below)))
        made.add_metric((kind,), buckets, histogram.sum)
    return made

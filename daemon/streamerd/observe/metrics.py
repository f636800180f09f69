"""What Prometheus is told: the daemon's counters as families of the official client library.

Owns names, help texts and labels of the metrics; a registry of its own, so that nothing of the
process beside them is told. Labels are of a few values each (kinds of source, codes of errors,
reasons), never a path, a user or a process. Names are a promise: `docs/operations.md` lists them,
and `deploy/grafana/` asks for them. Runs in the daemon's loop, and only reads.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
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
"""The reason of a retry that the storage code made by itself: a request that failed."""
_RETRIES: Final = {
    FailureKind.NO_SPACE.value: "no_room_in_shared_memory",
    FailureKind.WORKER_LOST.value: "worker_died",
    FailureKind.EXPIRED.value: "credentials_expired",
}


@dataclass(frozen=True, slots=True)
class Observed:
    """What metrics are told from."""

    facts: Facts
    watch: Watch
    refused: Mapping[str, int]
    """Requests that were refused, by the error's code."""
    started_at_s: float
    """Unix time of the daemon's start."""


class DaemonCollector(Collector):
    """Gives the families anew at each scrape."""

    def __init__(self, observed: Observed) -> None:
        self._observed = observed

    def collect(self) -> Iterable[Metric]:
        """All families."""
        facts, watch = self._observed.facts, self._observed.watch
        yield _labelled(GaugeMetricFamily, "build_info", "1, with the daemon's version",
                        "version", {__version__: 1})  # fmt: skip
        yield _gauge("start_time_seconds", "Unix time of its start", self._observed.started_at_s)
        yield from _memory(status_memory(facts))
        yield from _reading(facts)
        yield from _cache(status_totals(facts))
        yield from _troubles(facts, status_totals(facts))
        yield _labelled(CounterMetricFamily, "requests_refused", "Requests of clients that were "
                        "refused, by the error's code", "code", self._observed.refused)  # fmt: skip
        yield from _loads(facts, watch)
        yield from _processes(facts, status_totals(facts))
        fleet = status_fleet(facts)
        if fleet is not None:
            yield from fleet_families(fleet)


def registry(observed: Observed) -> CollectorRegistry:
    """A registry with the daemon's metrics and no others."""
    made = CollectorRegistry(auto_describe=False)
    made.register(DaemonCollector(observed))
    return made


def _memory(memory: MemoryStatus) -> Iterator[Metric]:
    yield _gauge("memory_limit_bytes", "The memory limit", memory.limit_bytes)
    yield _gauge("memory_used_bytes", "Reserved, resident, or on its way back", memory.used_bytes)
    yield _gauge("memory_leased_bytes", "Resident and leased by a load", memory.leased_bytes)
    yield _gauge("memory_pinned_bytes", "Resident and pinned", memory.pinned_bytes)
    yield _gauge("memory_committed_bytes", "Promised to loads and pins", memory.committed_bytes)
    yield _gauge("memory_lingering_bytes", "Given up, and still mapped by clients of an earlier "
                 "daemon; beside the limit", memory.lingering_bytes)  # fmt: skip


def _reading(facts: Facts) -> Iterator[Metric]:
    kinds = facts.totals.kinds
    read = {kind: totals.source_bytes for kind, totals in kinds.items()} or {FILE_KIND: 0}
    device = {kind: totals.device_bytes for kind, totals in kinds.items()} or {FILE_KIND: 0}
    requests = {kind: totals.requests for kind, totals in kinds.items()} or {FILE_KIND: 0}
    counter = CounterMetricFamily
    yield _labelled(counter, "source_read_bytes", "Read from sources", "kind", read)
    yield _labelled(counter, "source_device_bytes", "Of these, from the device or the network",
                    "kind", device)  # fmt: skip
    yield _labelled(counter, "source_requests", "Reads, one a block", "kind", requests)
    yield _counter("source_proof_bytes", "Read once more to take checksums again",
                   facts.totals.proof_bytes)  # fmt: skip
    latencies = {kind: totals.latency for kind, totals in kinds.items()}
    yield _histogram("block_read_seconds", "From the request for a block until it is in memory",
                     latencies)  # fmt: skip


def _cache(totals: TotalsStatus) -> Iterator[Metric]:
    yield _counter("served_bytes", "Granted to loads", totals.served_bytes)
    yield _counter("block_hits", "Wanted blocks in memory or on their way", totals.block_hits)
    yield _counter("block_misses", "Wanted blocks that had to be read", totals.block_misses)
    yield _counter("evicted_bytes", "Given up for other blocks, or by evict", totals.evicted_bytes)


def _troubles(facts: Facts, totals: TotalsStatus) -> Iterator[Metric]:
    counted = facts.model.totals
    retries = {name: counted.retries_by_reason[kind] for kind, name in _RETRIES.items()}
    retries[REQUEST] = totals.retries - sum(retries.values())
    counter = CounterMetricFamily
    yield _labelled(counter, "retries", "Reads that were tried again", "reason", retries)
    yield _labelled(counter, "errors", "Shards that failed, by the error's code", "code",
                    dict(counted.errors_by_code))  # fmt: skip


def _loads(facts: Facts, watch: Watch) -> Iterator[Metric]:
    running = len(facts.model.loads) - len(facts.model.waiting)
    yield _gauge("loads_running", "Loads and prefetches that are open and admitted", running)
    yield _labelled(GaugeMetricFamily, "loads_waiting", "Loads that wait for this", "reason",
                    watch.waiting())  # fmt: skip
    outcomes = CounterMetricFamily(
        PREFIX + "loads", "Loads that are over", labels=("kind", "outcome")
    )
    for labels, count in sorted(watch.totals.outcomes.items()):
        outcomes.add_metric(labels, count)
    yield outcomes
    origins = {name: watch.totals.origins[name] for name in ("memory", "source", "other_load")}
    yield _labelled(CounterMetricFamily, "load_bytes", "Served to loads that are over, by where "
                    "it came from", "origin", origins)  # fmt: skip
    yield _copied(status_totals(facts))
    yield _histogram("load_seconds", "Of loads that ended well", watch.totals.seconds)


def _copied(totals: TotalsStatus) -> Metric:
    page_cache, direct = totals.copied_page_cache_bytes, totals.copied_direct_bytes
    origins = {
        "daemon": max(0, totals.copied_bytes - page_cache - direct),
        "page_cache": page_cache,
        "direct": direct,
    }
    return _labelled(CounterMetricFamily, "copied_bytes", "Of tensors, by clients, as they told, "
                     "by where they had it from", "origin", origins)  # fmt: skip


def _processes(facts: Facts, totals: TotalsStatus) -> Iterator[Metric]:
    yield _gauge("clients", "Connected clients", len(facts.sessions))
    yield _gauge("workers", "Fetch processes that run", len(facts.fleet.pids))
    yield _counter("worker_restarts", "Fetch processes started again", totals.worker_restarts)
    yield _counter("lost_threads", "Threads given up with a file system that hangs",
                   totals.lost_threads)  # fmt: skip
    yield _counter("retired_workers", "Fetch processes replaced for lost threads",
                   totals.retired_workers)  # fmt: skip


def fleet_families(fleet: FleetStatus) -> Iterator[Metric]:
    """What is told where a fleet is configured."""
    yield _gauge("fleet_members", "Nodes of the fleet that are known, this one among them",
                 len(fleet.members))  # fmt: skip
    yield _gauge("fleet_serving", "1 while other nodes can ask this one", int(fleet.serving))
    yield _gauge("fleet_connections", "Connections of other nodes", fleet.connections)
    yield _counter("fleet_received_bytes", "Of blocks that other nodes sent", fleet.peer_bytes)
    yield _counter("fleet_sent_bytes", "Of blocks, to other nodes", fleet.sent_bytes)
    yield _counter("fleet_store_bytes", "Of blocks of remote objects that the store sent",
                   fleet.store_bytes)  # fmt: skip
    yield _labelled(CounterMetricFamily, "fleet_store_reads", "Blocks read from the store, by why "
                    "no other node sent them", "reason", fleet.store_reads)  # fmt: skip
    yield _labelled(CounterMetricFamily, "fleet_answers", "To other nodes' questions", "answer",
                    fleet.answers)  # fmt: skip
    yield _counter("fleet_restarts", "Of the process that serves other nodes", fleet.restarts)


# --- families -------------------------------------------------------------------------------------


def _gauge(name: str, told: str, value: float) -> Metric:
    return GaugeMetricFamily(PREFIX + name, told, value=value)


def _counter(name: str, told: str, value: float) -> Metric:
    return CounterMetricFamily(PREFIX + name, told, value=value)


def _labelled(
    family: type[GaugeMetricFamily | CounterMetricFamily],
    name: str,
    told: str,
    label: str,
    values: Mapping[str, float],
) -> Metric:
    made = family(PREFIX + name, told, labels=(label,))
    for value, number in sorted(values.items()):
        made.add_metric((value,), number)
    return made


def _histogram(name: str, told: str, by_kind: Mapping[str, Histogram]) -> Metric:
    made = HistogramMetricFamily(PREFIX + name, told, labels=("kind",))
    for kind, histogram in sorted(by_kind.items()):
        buckets, below = [], 0
        for bound, count in zip((*histogram.bounds, float("inf")), histogram.counts, strict=True):
            below += count
            buckets.append(("+Inf" if bound == float("inf") else str(bound), float(below)))
        made.add_metric((kind,), buckets, histogram.sum)
    return made

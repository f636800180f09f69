"""Makes the document for `streamerctl status`: the daemon's state as a `StatusDocument`.

This module fills the document in. The contract owns its names and types (`contract/status.py`).
Runs in the main process's loop, and only reads.
"""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import dataclass

from streamer_client.contract.sizes import format_size
from streamer_client.contract.status import (
    FleetStatus,
    LeaseStatus,
    MemoryStatus,
    ShardState,
    ShardStatus,
    SourceStatus,
    StatusDocument,
    TotalsStatus,
    WaitingStatus,
)
from streamerd import __version__
from streamerd.control.sessions import Sessions
from streamerd.reading.backing import shard_id
from streamerd.reading.fetches import Fetches
from streamerd.reading.peer_reads import FleetTotals
from streamerd.reading.totals import ReadTotals
from streamerd.service.shards import Failure, Shards
from streamerd.service.slabs import Slabs
from streamerd.service.turns import Turns
from streamerd.service.views import ModelView, ShardView
from streamerd.state.lifecycle import BlockState
from streamerd.workers.in_daemon.supervisor import Workers


@dataclass(frozen=True, slots=True)
class Facts:
    """The parts of the daemon that the status is read from."""

    socket: str
    instance: str
    turns: Turns
    model: ModelView
    shards: Shards
    slabs: Slabs
    fetches: Fetches
    totals: ReadTotals
    workers: Workers
    sessions: Sessions
    fleet_totals: FleetTotals | None = None
    fleet_name: str = ""


def status_document(facts: Facts) -> StatusDocument:
    """The whole status."""
    return StatusDocument(
        version=__version__,
        pid=os.getpid(),
        uptime_s=round(facts.turns.now_s - facts.turns.started_s, 3),
        socket=facts.socket,
        instance=facts.instance,
        memory=status_memory(facts),
        sources=_sources(facts),
        waiting=_waiting(facts),
        bandwidth_limit_bytes_per_s=facts.fetches.pace.bytes_per_s,
        totals=status_totals(facts),
        workers=tuple(facts.workers.pids),
        fleet=status_fleet(facts),
    )


def status_line(facts: Facts) -> str:
    """One line for `systemctl status`: memory and running loads."""
    ledger, model = facts.model.ledger, facts.model
    percent = 100 * ledger.used_bytes // max(1, ledger.limit_bytes)
    running = len(model.loads) - len(model.waiting)
    return (
        f"{format_size(ledger.used_bytes)} of {format_size(ledger.limit_bytes)} ({percent}%) in "
        f"memory; loads: {running} running, {len(model.waiting)} waiting"
    )


def status_memory(facts: Facts) -> MemoryStatus:
    """The part of the status about memory."""
    ledger, shards = facts.model.ledger, facts.model.shards.values()
    return MemoryStatus(
        limit_bytes=ledger.limit_bytes,
        used_bytes=ledger.used_bytes,
        leased_bytes=sum(shard.resident_bytes for shard in shards if shard.loads),
        pinned_bytes=sum(shard.resident_bytes for shard in shards if shard.pinned),
        committed_bytes=ledger.committed_bytes,
        lingering_bytes=facts.slabs.lingering_bytes,
    )


def _sources(facts: Facts) -> tuple[SourceStatus, ...]:
    by_source: dict[str, list[ShardStatus]] = defaultdict(list)
    known = set()
    for key, shard in facts.model.shards.items():
        uri = facts.shards.backings[key].stored.uri
        known.add(uri)
        by_source[os.path.dirname(uri)].append(_shard(facts, shard))
    for uri, failure in facts.shards.failures.items():
        if uri not in known:
            by_source[os.path.dirname(uri)].append(_failed(uri, failure))
    return tuple(
        SourceStatus(uri=uri, shards=tuple(sorted(shards, key=lambda shard: shard.uri)))
        for uri, shards in sorted(by_source.items())
    )


def _shard(facts: Facts, shard: ShardView) -> ShardStatus:
    state, backing = _state(shard), facts.shards.backings[shard.key]
    streaming = state is ShardState.STREAMING
    bytes_per_s = facts.fetches.bytes_per_s(shard.key) if streaming else 0.0
    resident_bytes = min(shard.resident_bytes, shard.size_bytes)
    missing_bytes = shard.size_bytes - resident_bytes
    uri = backing.stored.uri
    return ShardStatus(
        id=shard_id(shard.key),
        uri=uri,
        names=tuple(sorted({name.text for name in backing.names} - {uri})),
        slab=backing.slab_name or None,
        size_bytes=shard.size_bytes,
        resident_bytes=resident_bytes,
        state=state,
        pinned=shard.pinned,
        leases=_leases(facts, shard),
        retries=backing.retries,
        bytes_per_s=round(bytes_per_s, 1),
        eta_s=round(missing_bytes / bytes_per_s, 3) if bytes_per_s else None,
        error=shard.error[1] if shard.error else None,
    )


def _failed(uri: str, failure: Failure) -> ShardStatus:
    """A failed shard that the core has forgotten, and that the status still shows."""
    return ShardStatus(
        id=failure.id,
        uri=uri,
        slab=None,
        size_bytes=failure.size_bytes,
        resident_bytes=0,
        state=ShardState.FAILED,
        pinned=False,
        leases=(),
        bytes_per_s=0.0,
        eta_s=None,
        error=failure.message,
    )


def _state(shard: ShardView) -> ShardState:
    if shard.error is not None:
        return ShardState.FAILED
    if shard.resident_bytes == shard.slab_bytes:
        return ShardState.RESIDENT
    if not shard.loads:
        return ShardState.PARTIAL
    touched = shard.resident_bytes or BlockState.FETCHING in shard.states
    return ShardState.STREAMING if touched else ShardState.QUEUED


def _leases(facts: Facts, shard: ShardView) -> tuple[LeaseStatus, ...]:
    rows: list[LeaseStatus] = []
    for key, index in shard.loads.items():
        pid, label = _holder(facts, key.owner)
        consumed_bytes = facts.model.loads[key].consumed_bytes.get(index, 0)
        rows.append(
            LeaseStatus(pid=pid, label=label, consumed_bytes=min(consumed_bytes, shard.size_bytes))
        )
    return tuple(rows)


def _waiting(facts: Facts) -> tuple[WaitingStatus, ...]:
    rows: list[WaitingStatus] = []
    for key in facts.model.waiting:
        pid, label = _holder(facts, key.owner)
        needs_bytes = facts.model.loads[key].window_bytes
        rows.append(WaitingStatus(pid=pid, label=label, needs_bytes=needs_bytes))
    return tuple(rows)


def _holder(facts: Facts, owner: str) -> tuple[int, str]:
    """Pid and label of a load's owner: a client, or this daemon for a prefetch."""
    peer = facts.sessions.get(owner)
    return (peer.pid, peer.label) if peer else (os.getpid(), "prefetch")


def status_fleet(facts: Facts) -> FleetStatus | None:
    """The part of the status about the fleet; None if there is no fleet."""
    totals = facts.fleet_totals
    if totals is None:
        return None
    return FleetStatus(
        name=facts.fleet_name,
        me=totals.me,
        members=tuple(sorted(totals.members)),
        members_error=totals.members_error,
        serving=totals.serving,
        restarts=totals.restarts,
        peer_bytes=totals.peer_bytes,
        store_bytes=totals.store_bytes,
        store_reads=dict(totals.store_reads),
        sent_bytes=totals.sent_bytes,
        answers=dict(totals.answers),
        connections=totals.connections,
    )


def status_totals(facts: Facts) -> TotalsStatus:
    """The part of the status with the counters."""
    totals, reading = facts.model.totals, facts.totals
    return TotalsStatus(
        source_read_bytes=reading.source_bytes,
        source_device_bytes=reading.device_bytes,
        source_proof_bytes=reading.proof_bytes,
        source_requests=reading.requests,
        served_bytes=totals.served_bytes,
        copied_bytes=facts.sessions.copied.copied_bytes,
        copied_page_cache_bytes=facts.sessions.copied.page_cache_bytes,
        copied_direct_bytes=facts.sessions.copied.direct_bytes,
        block_hits=totals.block_hits,
        block_misses=totals.block_misses,
        evicted_bytes=totals.evicted_bytes,
        retries=totals.retries + reading.retries,
        errors=totals.errors,
        worker_restarts=facts.workers.restarts,
        lost_threads=facts.workers.lost_threads,
        retired_workers=facts.workers.retired,
    )

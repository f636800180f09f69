"""What `streamerctl status` tells: the daemon's state as the contract's `StatusDocument`.

Owns how the document is filled; its names and types are the contract's (`contract/status.py`). Runs
in the main process's loop, and only reads.
"""

from __future__ import annotations

import os
from collections import defaultdict

from streamer_client.contract.sizes import format_size
from streamer_client.contract.status import (
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
from streamerd.reading.backing import shard_id
from streamerd.service import Failure, Service
from streamerd.state.lifecycle import BlockState
from streamerd.state.shard import Shard


def status_document(service: Service) -> StatusDocument:
    """Everything that `status` tells."""
    return StatusDocument(
        version=__version__,
        pid=os.getpid(),
        uptime_s=round(service.now_s - service.started_s, 3),
        socket=service.settings.socket,
        instance=service.instance,
        memory=_memory(service),
        sources=_sources(service),
        waiting=_waiting(service),
        bandwidth_limit_bytes_per_s=service.fetches.pace.bytes_per_s,
        totals=_totals(service),
        workers=tuple(service.fleet.pids),
    )


def status_line(service: Service) -> str:
    """One line for `systemctl status`: memory and running loads."""
    ledger, model = service.model.ledger, service.model
    percent = 100 * ledger.used_bytes // max(1, ledger.limit_bytes)
    running = len(model.loads) - len(model.waiting)
    return (
        f"{format_size(ledger.used_bytes)} of {format_size(ledger.limit_bytes)} ({percent}%) in "
        f"memory; loads: {running} running, {len(model.waiting)} waiting"
    )


def _memory(service: Service) -> MemoryStatus:
    ledger, shards = service.model.ledger, service.model.shards.values()
    return MemoryStatus(
        limit_bytes=ledger.limit_bytes,
        used_bytes=ledger.used_bytes,
        leased_bytes=sum(shard.resident_bytes for shard in shards if shard.loads),
        pinned_bytes=sum(shard.resident_bytes for shard in shards if shard.pinned),
        committed_bytes=ledger.committed_bytes,
        lingering_bytes=service.lingering.size_bytes,
    )


def _sources(service: Service) -> tuple[SourceStatus, ...]:
    by_source: dict[str, list[ShardStatus]] = defaultdict(list)
    known = set()
    for key, shard in service.model.shards.items():
        uri = service.backings[key].stored.uri
        known.add(uri)
        by_source[os.path.dirname(uri)].append(_shard(service, shard))
    for uri, failure in service.failures.items():
        if uri not in known:
            by_source[os.path.dirname(uri)].append(_failed(uri, failure))
    return tuple(
        SourceStatus(uri=uri, shards=tuple(shards)) for uri, shards in sorted(by_source.items())
    )


def _shard(service: Service, shard: Shard) -> ShardStatus:
    state, backing = _state(shard), service.backings[shard.key]
    rate = service.fetches.rates.get(shard.key)
    streaming = state is ShardState.STREAMING
    bytes_per_s = rate.bytes_per_s(service.now_s) if rate and streaming else 0.0
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
        leases=_leases(service, shard),
        retries=backing.retries,
        bytes_per_s=round(bytes_per_s, 1),
        eta_s=round(missing_bytes / bytes_per_s, 3) if bytes_per_s else None,
        error=shard.error[1] if shard.error else None,
    )


def _failed(uri: str, failure: Failure) -> ShardStatus:
    """A shard that the model has forgotten, and whose failure is still told."""
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


def _state(shard: Shard) -> ShardState:
    if shard.error is not None:
        return ShardState.FAILED
    if shard.resident_bytes == shard.slab_bytes:
        return ShardState.RESIDENT
    if not shard.loads:
        return ShardState.PARTIAL
    touched = shard.resident_bytes or BlockState.FETCHING in shard.states
    return ShardState.STREAMING if touched else ShardState.QUEUED


def _leases(service: Service, shard: Shard) -> tuple[LeaseStatus, ...]:
    rows: list[LeaseStatus] = []
    for key, index in shard.loads.items():
        pid, label = _holder(service, key.owner)
        consumed_bytes = service.model.loads[key].consumed_bytes.get(index, 0)
        rows.append(
            LeaseStatus(pid=pid, label=label, consumed_bytes=min(consumed_bytes, shard.size_bytes))
        )
    return tuple(rows)


def _waiting(service: Service) -> tuple[WaitingStatus, ...]:
    rows: list[WaitingStatus] = []
    for key in service.model.waiting:
        pid, label = _holder(service, key.owner)
        needs_bytes = service.model.loads[key].window_bytes
        rows.append(WaitingStatus(pid=pid, label=label, needs_bytes=needs_bytes))
    return tuple(rows)


def _holder(service: Service, owner: str) -> tuple[int, str]:
    """Pid and label of a load's owner: a client, or this daemon for a prefetch."""
    peer = service.sessions.get(owner)
    return (peer.pid, peer.label) if peer else (os.getpid(), "prefetch")


def _totals(service: Service) -> TotalsStatus:
    totals, reading = service.model.totals, service.fetches.reading
    return TotalsStatus(
        source_read_bytes=reading.source_bytes,
        source_device_bytes=reading.device_bytes,
        source_proof_bytes=reading.proof_bytes,
        source_requests=reading.requests,
        served_bytes=totals.served_bytes,
        block_hits=totals.block_hits,
        block_misses=totals.block_misses,
        evicted_bytes=totals.evicted_bytes,
        retries=totals.retries + reading.retries,
        errors=totals.errors,
        worker_restarts=service.fleet.restarts,
        lost_threads=service.fleet.lost_threads,
        retired_workers=service.fleet.retired,
    )

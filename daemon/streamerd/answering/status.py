"""The body of `streamerctl status --json`; its keys are a promise, see docs/status-json.md."""

from __future__ import annotations

import os
from collections import defaultdict

from streamer_client.contract.sizes import format_size
from streamerd import __version__
from streamerd.reading.backing import shard_id
from streamerd.service import Service
from streamerd.state.lifecycle import BlockState
from streamerd.state.shard import Shard


def status_body(service: Service) -> dict[str, object]:
    """Everything that `status` tells, as JSON-ready values."""
    return {
        "version": __version__,
        "pid": os.getpid(),
        "uptime_s": round(service.now_s - service.started_s, 3),
        "socket": service.settings.socket,
        "instance": service.instance,
        "memory": _memory(service),
        "sources": _sources(service),
        "waiting": _waiting(service),
        "bandwidth_limit_bytes_per_s": service.fetches.pace.bytes_per_s,
        "totals": _totals(service),
        "workers": service.fleet.pids,
    }


def status_line(service: Service) -> str:
    """One line for `systemctl status`: memory and running loads."""
    ledger, model = service.model.ledger, service.model
    percent = 100 * ledger.used_bytes // max(1, ledger.limit_bytes)
    running = len(model.loads) - len(model.waiting)
    return (
        f"{format_size(ledger.used_bytes)} of {format_size(ledger.limit_bytes)} ({percent}%) in "
        f"memory; loads: {running} running, {len(model.waiting)} waiting"
    )


def _memory(service: Service) -> dict[str, object]:
    ledger, shards = service.model.ledger, service.model.shards.values()
    return {
        "limit_bytes": ledger.limit_bytes,
        "used_bytes": ledger.used_bytes,
        "leased_bytes": sum(shard.resident_bytes for shard in shards if shard.loads),
        "pinned_bytes": sum(shard.resident_bytes for shard in shards if shard.pinned),
        "committed_bytes": ledger.committed_bytes,
        "lingering_bytes": service.lingering.size_bytes,
    }


def _sources(service: Service) -> list[dict[str, object]]:
    by_source: dict[str, list[dict[str, object]]] = defaultdict(list)
    known = set()
    for key, shard in service.model.shards.items():
        uri = service.backings[key].stored.uri
        known.add(uri)
        by_source[os.path.dirname(uri)].append(_shard(service, shard))
    for uri, failure in service.failures.items():
        if uri not in known:
            row = _row(uri, failure.size_bytes, "failed")
            row |= {"id": failure.id, "error": failure.message}
            by_source[os.path.dirname(uri)].append(row)
    return [{"uri": uri, "shards": rows} for uri, rows in sorted(by_source.items())]


def _row(uri: str, size_bytes: int, state: str) -> dict[str, object]:
    return {
        "id": None,
        "uri": uri,
        "names": [],
        "slab": None,
        "size_bytes": size_bytes,
        "resident_bytes": 0,
        "state": state,
        "pinned": False,
        "leases": [],
        "retries": 0,
        "bytes_per_s": 0.0,
        "eta_s": None,
        "error": None,
    }


def _shard(service: Service, shard: Shard) -> dict[str, object]:
    state, backing = _state(shard), service.backings[shard.key]
    rate = service.fetches.rates.get(shard.key)
    bytes_per_s = rate.bytes_per_s(service.now_s) if rate and state == "streaming" else 0.0
    resident_bytes = min(shard.resident_bytes, shard.size_bytes)
    missing_bytes = shard.size_bytes - resident_bytes
    uri = backing.stored.uri
    return _row(uri, shard.size_bytes, state) | {
        "id": shard_id(shard.key),
        "names": sorted({name.text for name in backing.names} - {uri}),
        "slab": backing.slab_name or None,
        "resident_bytes": resident_bytes,
        "pinned": shard.pinned,
        "leases": _leases(service, shard),
        "retries": backing.retries,
        "bytes_per_s": round(bytes_per_s, 1),
        "eta_s": round(missing_bytes / bytes_per_s, 3) if bytes_per_s else None,
        "error": shard.error[1] if shard.error else None,
    }


def _state(shard: Shard) -> str:
    if shard.error is not None:
        return "failed"
    if shard.resident_bytes == shard.slab_bytes:
        return "resident"
    if not shard.loads:
        return "partial"
    touched = shard.resident_bytes or BlockState.FETCHING in shard.states
    return "streaming" if touched else "queued"


def _leases(service: Service, shard: Shard) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for key, index in shard.loads.items():
        peer = service.sessions.get(key.owner)
        consumed_bytes = service.model.loads[key].consumed_bytes.get(index, 0)
        rows.append(
            {
                "pid": peer.pid if peer else os.getpid(),
                "label": peer.label if peer else "prefetch",
                "consumed_bytes": min(consumed_bytes, shard.size_bytes),
            }
        )
    return rows


def _waiting(service: Service) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for key in service.model.waiting:
        peer = service.sessions.get(key.owner)
        rows.append(
            {
                "pid": peer.pid if peer else os.getpid(),
                "label": peer.label if peer else "prefetch",
                "needs_bytes": service.model.loads[key].window_bytes,
            }
        )
    return rows


def _totals(service: Service) -> dict[str, object]:
    totals, reading = service.model.totals, service.fetches.reading
    return {
        "source_read_bytes": reading.source_bytes,
        "source_device_bytes": reading.device_bytes,
        "source_proof_bytes": reading.proof_bytes,
        "source_requests": reading.requests,
        "served_bytes": totals.served_bytes,
        "block_hits": totals.block_hits,
        "block_misses": totals.block_misses,
        "evicted_bytes": totals.evicted_bytes,
        "retries": totals.retries + reading.retries,
        "errors": totals.errors,
        "worker_restarts": service.fleet.restarts,
        "lost_threads": service.fleet.lost_threads,
        "retired_workers": service.fleet.retired,
    }

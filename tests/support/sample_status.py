"""A status body with everything in it, as a daemon with a memory limit of 64 GiB sends it."""

from __future__ import annotations

from hashlib import blake2s
from typing import Any

GIB = 1 << 30


def id_of(uri: str) -> str:
    """The id of the shard of this name."""
    return blake2s(uri.encode(), digest_size=8).hexdigest()


def shard(uri: str, size_bytes: int, resident_bytes: int, state: str, **more: Any) -> Any:
    return {
        "id": id_of(uri),
        "uri": uri,
        "names": [],
        "slab": "/streamerd.1a2b3c4d.0011223344556677",
        "size_bytes": size_bytes,
        "resident_bytes": resident_bytes,
        "state": state,
        "pinned": False,
        "leases": [],
        "retries": 0,
        "bytes_per_s": 0.0,
        "eta_s": None,
        "error": None,
    } | more


def lease(pid: int, label: str, consumed_bytes: int = 0) -> dict[str, Any]:
    return {"pid": pid, "label": label, "consumed_bytes": consumed_bytes}


def empty_body() -> dict[str, Any]:
    """The status of a daemon that has just started."""
    return {
        "version": "0.1.0",
        "pid": 4242,
        "uptime_s": 3.4,
        "socket": "/run/streamerd/control.sock",
        "instance": "1a2b3c4d",
        "memory": memory(),
        "sources": [],
        "waiting": [],
        "totals": {
            "source_read_bytes": 0,
            "source_device_bytes": 0,
            "source_proof_bytes": 0,
            "source_requests": 0,
            "served_bytes": 0,
            "copied_bytes": 0,
            "copied_page_cache_bytes": 0,
            "copied_direct_bytes": 0,
            "block_hits": 0,
            "block_misses": 0,
            "evicted_bytes": 0,
            "retries": 0,
            "errors": 0,
            "worker_restarts": 0,
            "lost_threads": 0,
            "retired_workers": 0,
        },
        "bandwidth_limit_bytes_per_s": 0,
        "workers": [4243],
        "fleet": None,
    }


def memory(**more: int) -> dict[str, int]:
    names = ("used", "leased", "pinned", "committed", "lingering")
    return {"limit_bytes": 64 * GIB} | {f"{name}_bytes": 0 for name in names} | more


def busy_sources() -> list[dict[str, Any]]:
    """Shards in every state."""
    llama = "/models/llama-tp2"
    return [
        {
            "uri": llama,
            "shards": [
                shard(f"{llama}/model-rank-0-part-0.safetensors", 8 * GIB, 8 * GIB, "resident",
                      leases=[lease(811, "rank 0", 8 * GIB)]),
                shard(f"{llama}/model-rank-1-part-0.safetensors", 8 * GIB, 5 * GIB, "streaming",
                      leases=[lease(812, "rank 1", 2 * GIB), lease(990, "warm-up")],
                      bytes_per_s=3.214e9, eta_s=61.7),
                shard(f"{llama}/model-rank-1-part-1.safetensors", 4 * GIB, 0, "queued"),
            ],
        },
        {
            "uri": "s3://bucket/mixtral",
            "shards": [
                shard("s3://bucket/mixtral/a.safetensors", 24 * GIB, 24 * GIB, "resident",
                      pinned=True),
                shard("s3://bucket/mixtral/b.safetensors", 24 * GIB, 3 * GIB, "failed",
                      error="403 for s3://bucket/mixtral/b.safetensors; check the credentials"),
            ],
        },
    ]  # fmt: skip


def busy_body() -> dict[str, Any]:
    """Two sources, every state, leases, a pin, an error and a waiting load."""
    return empty_body() | {
        "uptime_s": 7384.2,
        "memory": memory(
            used_bytes=40 * GIB,
            leased_bytes=16 * GIB,
            pinned_bytes=24 * GIB,
            committed_bytes=40 * GIB,
        ),
        "sources": busy_sources(),
        "waiting": [{"pid": 1203, "label": "rank 0", "needs_bytes": 16 << 20}],
        "totals": {
            "source_read_bytes": 43 * GIB,
            "source_device_bytes": 40 * GIB,
            "source_proof_bytes": 0,
            "source_requests": 5504,
            "served_bytes": 81 * GIB,
            "copied_bytes": 40 * GIB,
            "copied_page_cache_bytes": 2 * GIB,
            "copied_direct_bytes": 1 * GIB,
            "block_hits": 10368,
            "block_misses": 5504,
            "evicted_bytes": 3 * GIB,
            "retries": 2,
            "errors": 1,
            "worker_restarts": 0,
            "lost_threads": 0,
            "retired_workers": 0,
        },
    }  # fmt: skip

"""The body of a status answer, typed: the same JSON that `streamerctl status --json` prints.

Parses at the edge. Fields that a newer daemon adds are ignored here and kept by `--json`.
"""

from __future__ import annotations

import msgspec

from streamer_client.contract.errors import ProtocolMismatch
from streamer_client.contract.messages import Json


class Memory(msgspec.Struct, frozen=True):
    limit_bytes: int
    used_bytes: int
    leased_bytes: int
    pinned_bytes: int
    lingering_bytes: int = 0
    """Of slabs that were given up and that old clients still have mapped; beside the limit."""


class Lease(msgspec.Struct, frozen=True):
    pid: int
    label: str
    consumed_bytes: int


class Shard(msgspec.Struct, frozen=True):
    id: str | None
    """Stands for the shard, which may have several names."""
    uri: str
    slab: str | None
    size_bytes: int
    resident_bytes: int
    state: str
    """`queued`, `streaming`, `partial`, `resident` or `failed`; newer daemons may add others."""
    pinned: bool
    leases: tuple[Lease, ...]
    bytes_per_s: float | None
    eta_s: float | None
    error: str | None
    retries: int = 0
    """Of requests to its source."""


class Source(msgspec.Struct, frozen=True):
    uri: str
    shards: tuple[Shard, ...]


class WaitingLoad(msgspec.Struct, frozen=True):
    pid: int
    label: str
    needs_bytes: int


class Totals(msgspec.Struct, frozen=True):
    source_read_bytes: int
    source_requests: int
    served_bytes: int
    block_hits: int
    block_misses: int
    evicted_bytes: int
    retries: int
    errors: int
    worker_restarts: int
    lost_threads: int = 0
    """Given up because a file system did not answer."""
    retired_workers: int = 0


class StatusBody(msgspec.Struct, frozen=True):
    version: str
    pid: int
    uptime_s: float
    socket: str
    instance: str
    memory: Memory
    sources: tuple[Source, ...]
    waiting: tuple[WaitingLoad, ...]
    totals: Totals

    def shards(self) -> dict[str, Shard]:
        """Every shard by its id."""
        return {
            shard.id: shard
            for source in self.sources
            for shard in source.shards
            if shard.id is not None
        }


def parse_status(body: Json) -> StatusBody:
    """Type the body of a status answer.

    Raises:
        ProtocolMismatch: it lacks what this version shows.
    """
    try:
        return msgspec.convert(body, StatusBody)
    except msgspec.ValidationError as error:
        raise ProtocolMismatch(
            f"the daemon's status is not what this streamerctl knows ({error}); install the same "
            "version of streamerd on both sides"
        ) from error

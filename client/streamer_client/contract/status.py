"""The document of `streamerctl status --json`, typed once for the daemon and its readers.

Owns the document's names, their order and their types; `docs/status-json.md` explains each to
users, and a test holds that page against these structs. The daemon builds one
users, and a test compares that page with these structs. The daemon builds a document
(`answering/status.py`) and sends it as the body of `messages.Status`; streamerctl parses that body
at the edge. Names are a promise: a new field has a default, so that a reader also understands a
daemon that lacks it. A reader ignores fields that it does not know, and `--json` prints them all
the same. Pure.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TypeVar

import msgspec

from streamer_client.contract.errors import ProtocolMismatch
from streamer_client.contract.messages import Json

Document = TypeVar("Document", bound=msgspec.Struct)


class ShardState(StrEnum):
    """How far the reading of a shard is; the value is what users read."""

    QUEUED = "queued"
    """A load wants the shard, and none of it has come yet."""
    STREAMING = "streaming"
    PARTIAL = "partial"
    """Some of the shard is resident, and no load asks for the rest."""
    RESIDENT = "resident"
    FAILED = "failed"
    """The shard could not be read; `ShardStatus.error` says why."""


class MemoryStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The account of slab bytes against the memory limit."""

    limit_bytes: int
    used_bytes: int
    """Bytes that are reserved, resident, or on their way back to the system."""
    leased_bytes: int
    pinned_bytes: int
    committed_bytes: int = 0
    """Bytes promised to loads and pins."""
    lingering_bytes: int = 0
    """Bytes of removed slabs that clients still map; they come on top of the limit."""


class LeaseStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One load that has a shard open."""

    pid: int
    label: str
    consumed_bytes: int


class ShardStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One shard: resident, on its way, or remembered because it failed."""

    id: str | None
    """Identifies the shard, which may have several names."""
    uri: str
    names: tuple[str, ...] = ()
    """Further names of the shard, as one file may be opened by several paths."""
    slab: str | None
    """Name of its slab; None if it has no shared memory."""
    size_bytes: int
    resident_bytes: int
    state: str
    """A `ShardState`, or a state that only a newer daemon knows."""
    pinned: bool
    leases: tuple[LeaseStatus, ...]
    retries: int = 0
    """How many requests to its source were repeated."""
    bytes_per_s: float | None
    eta_s: float | None
    error: str | None


class SourceStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The shards in one folder or under one prefix."""

    uri: str
    shards: tuple[ShardStatus, ...]


class WaitingStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One load that waits to be admitted."""

    pid: int
    label: str
    needs_bytes: int


class TotalsStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Counters since the daemon's start."""

    source_read_bytes: int
    source_device_bytes: int = 0
    """The part of `source_read_bytes` that came from a device or over the network."""
    source_proof_bytes: int = 0
    """Bytes read again to renew checksums; not counted in `source_read_bytes`."""
    source_requests: int
    served_bytes: int
    copied_bytes: int = 0
    """Bytes of tensors that clients copied to devices or into private memory, as clients told."""
    copied_page_cache_bytes: int = 0
    """The part of `copied_bytes` that came from the page cache."""
    copied_direct_bytes: int = 0
    """The part of `copied_bytes` that the clients read themselves."""
    block_hits: int
    block_misses: int
    evicted_bytes: int
    retries: int
    errors: int
    worker_restarts: int
    lost_threads: int = 0
    """Threads of workers that were given up because a file system did not answer them."""
    retired_workers: int = 0


class FleetStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of the exchange with other nodes since the daemon's start."""

    name: str
    me: str
    """This node's address in the fleet; empty until it is known."""
    members: tuple[str, ...]
    serving: bool
    """Whether other nodes can ask this one for blocks."""
    restarts: int
    """How often the process that serves other nodes was started again."""
    peer_bytes: int
    """Bytes of blocks that other nodes sent to this one."""
    store_bytes: int
    """Bytes of blocks of shared objects that were read from the store."""
    store_reads: dict[str, int]
    """How many such blocks, by reason: `owner`, `alone`, `silent`, `corrupt`, `waited`, `not_told`.
    """
    sent_bytes: int
    """Bytes sent to other nodes."""
    answers: dict[str, int]
    """How many answers to other nodes, by kind: `sent`, `elsewhere`, `busy`, `waiting`, `missing`,
    `broken`, `bad`."""
    connections: int
    """How many connections of other nodes are open now."""
    members_error: str = ""
    """Why the service that `fleet_members` names does not answer; empty while it answers."""


class StatusDocument(msgspec.Struct, frozen=True, kw_only=True):
    """The whole document of `streamerctl status --json`."""

    version: str
    pid: int
    uptime_s: float
    socket: str
    instance: str
    memory: MemoryStatus
    sources: tuple[SourceStatus, ...]
    waiting: tuple[WaitingStatus, ...]
    bandwidth_limit_bytes_per_s: int = 0
    totals: TotalsStatus
    workers: tuple[int, ...] = ()
    """Pids of the workers."""
    fleet: FleetStatus | None = None

    def shards(self) -> dict[str, ShardStatus]:
        """Every shard that has an id, by that id."""
        return {
            shard.id: shard
            for source in self.sources
            for shard in source.shards
            if shard.id is not None
        }

    def body(self) -> Json:
        """The document as the body of a `Status` message, in JSON's own types."""
        body: Json = msgspec.to_builtins(self)
        return body


def parse_status(body: Json) -> StatusDocument:
    """Type the body of a `Status` message.

    Raises:
        ProtocolMismatch: as `typed_body` says.
    """
    return typed_body(body, StatusDocument, "status")


def typed_body(body: Json, document: type[Document], called: str) -> Document:
    """Type the body of a message that streamerctl shows.

    Args:
        body: the body as the daemon sent it.
        document: the type that this version knows.
        called: the document's name in an error.

    Raises:
        ProtocolMismatch: a field that this version shows is missing or of another type.
    """
    try:
        return msgspec.convert(body, document)
    except msgspec.ValidationError as error:
        raise ProtocolMismatch(
            f"the daemon's {called} is not what this streamerctl knows ({error}); install the same "
            "version of streamerd on both sides"
        ) from error

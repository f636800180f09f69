"""The document of `streamerctl status --json`, typed once for the daemon and its readers.

Owns the document's names, their order and their types; `docs/status-json.md` explains each to
users, and a test holds that page against these structs. The daemon builds one
(`answering/status.py`) and sends it as the body of `messages.Status`; streamerctl parses that body
at the edge. Names are a promise: a field may be added, with a default, so that a reader understands
a daemon that lacks it. A reader passes over fields that it does not know, and `--json` prints them
all the same. Pure.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TypeVar

import msgspec

from streamer_client.contract.errors import ProtocolMismatch
from streamer_client.contract.messages import Json

Document = TypeVar("Document", bound=msgspec.Struct)


class ShardState(StrEnum):
    """How far a shard is; the value is what users read."""

    QUEUED = "queued"
    """A load wants it, and none of it has come yet."""
    STREAMING = "streaming"
    PARTIAL = "partial"
    """Some of it is resident, and no load asks for the rest."""
    RESIDENT = "resident"
    FAILED = "failed"
    """It could not be read; `ShardStatus.error` says why."""


class MemoryStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The account of slab bytes against the memory limit."""

    limit_bytes: int
    used_bytes: int
    """Reserved, resident, or on their way back to the system."""
    leased_bytes: int
    pinned_bytes: int
    committed_bytes: int = 0
    """Promised to loads and pins."""
    lingering_bytes: int = 0
    """Bytes of slabs that were given up and that clients still map; beside the limit."""


class LeaseStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One load that has a shard open."""

    pid: int
    label: str
    consumed_bytes: int


class ShardStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One shard: resident, on its way, or one that failed and is remembered for that."""

    id: str | None
    """Stands for the shard, which may have several names."""
    uri: str
    names: tuple[str, ...] = ()
    """Its other names: one file may be opened by several paths."""
    slab: str | None
    """None where it has no shared memory."""
    size_bytes: int
    resident_bytes: int
    state: str
    """A `ShardState`, or a word of a newer daemon's."""
    pinned: bool
    leases: tuple[LeaseStatus, ...]
    retries: int = 0
    """Requests to its source that were made again."""
    bytes_per_s: float | None
    eta_s: float | None
    error: str | None


class SourceStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Shards in one folder or under one prefix."""

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
    """Read once more to take checksums again; no part of `source_read_bytes`."""
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
    """What other nodes gave and got since the daemon's start; None where there is no fleet."""

    name: str
    me: str
    """This node's address in the fleet; empty until it is known."""
    members: tuple[str, ...]
    serving: bool
    """Whether other nodes can ask this one."""
    restarts: int
    """How often the process that serves them was started again."""
    peer_bytes: int
    """Of blocks that other nodes sent."""
    store_bytes: int
    """Of blocks of shared objects that were read from the store."""
    store_reads: dict[str, int]
    """Those blocks, by why: `owner`, `alone`, `silent`, `corrupt`, `waited`, `not_told`."""
    sent_bytes: int
    """To other nodes."""
    answers: dict[str, int]
    """To their questions: `sent`, `elsewhere`, `busy`, `waiting`, `missing`, `broken`, `bad`."""
    connections: int
    """Of other nodes, open now."""
    members_error: str = ""
    """Why what `fleet_members` names does not answer; empty while it does."""


class StatusDocument(msgspec.Struct, frozen=True, kw_only=True):
    """The whole document."""

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
    """Pids of the fetch processes."""
    fleet: FleetStatus | None = None

    def shards(self) -> dict[str, ShardStatus]:
        """Every shard that has an id, by it."""
        return {
            shard.id: shard
            for source in self.sources
            for shard in source.shards
            if shard.id is not None
        }

    def body(self) -> Json:
        """The document as the body of a `Status` message: JSON's own types, in their order."""
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
        body: as the daemon sent it.
        document: the type that this version knows.
        called: the word for it in an error.

    Raises:
        ProtocolMismatch: a name that this version shows is missing or of another type.
    """
    try:
        return msgspec.convert(body, document)
    except msgspec.ValidationError as error:
        raise ProtocolMismatch(
            f"the daemon's {called} is not what this streamerctl knows ({error}); install the same "
            "version of streamerd on both sides"
        ) from error

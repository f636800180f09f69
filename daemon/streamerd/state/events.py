"""Events: the only input of the core. Each is a past fact, with its time in `at_s`."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

import msgspec

from streamer_client.contract.layout import BlockRange
from streamer_client.contract.options import LoadOptions


class ShardKey(NamedTuple):
    """A shard: the name of a file or object, and its identity. Changed content is another shard."""

    uri: str
    """Device and inode of a file, so that all its paths name one shard; the URI of an object."""
    identity: str


class LoadKey(NamedTuple):
    """A load: the client that opened it, and the number that this client gave it."""

    owner: str
    number: int


class ShardSpec(msgspec.Struct, frozen=True):
    key: ShardKey
    size_bytes: int
    remote: bool = False
    """Whether the shard is read over the network, by connections and with credentials, and not by
    disk threads."""
    transient: bool = False
    """Whether no identity proves that the content stays the same. Such a shard is dropped with its
    last lease."""


class FailureKind(Enum):
    """The consequences of a failed fetch for its block."""

    ERROR = "error"
    """The source cannot be read: the shard fails for every load of it."""
    NO_SPACE = "no-space"
    """The shared-memory mount is full below the memory limit: wait or evict, then try again."""
    WORKER_LOST = "worker-lost"
    """The worker died: try again, a few times."""
    DENIED = "denied"
    """The store denied the credentials: the shard fails for the load that brought them."""
    EXPIRED = "expired"
    """The store no longer takes the credentials: they are not used until they are renewed."""


class Event(msgspec.Struct, frozen=True):
    """Base of all events; `at_s` is seconds of a clock that only goes forward."""

    at_s: float


class LoadOpened(Event, frozen=True):
    """A client asked for a load, and the source was resolved to `shards`."""

    load: LoadKey
    shards: tuple[ShardSpec, ...]
    wants: tuple[BlockRange, ...]
    options: LoadOptions = LoadOptions()
    prefetch: bool = False
    """Whether no client reads the load's blocks. A prefetch is rejected if its shards cannot be
    held whole, and finishes when they are resident."""
    pin: bool = False


class WantsReplaced(Event, frozen=True):
    load: LoadKey
    wants: tuple[BlockRange, ...]


class BlocksConsumed(Event, frozen=True):
    load: LoadKey
    ranges: tuple[BlockRange, ...]


class ShardsReleased(Event, frozen=True):
    load: LoadKey
    shards: tuple[int, ...]


class LoadClosed(Event, frozen=True):
    load: LoadKey


class CredentialsRenewed(Event, frozen=True):
    """A client was asked for credentials; `newer` is false if it has only those that expired."""

    load: LoadKey
    newer: bool = True


class OwnerGone(Event, frozen=True):
    """A client left or died: all its loads end."""

    owner: str


class BlockFetched(Event, frozen=True):
    shard: ShardKey
    block: int


class FetchFailed(Event, frozen=True):
    shard: ShardKey
    block: int
    kind: FailureKind
    code: str
    message: str
    blamed: tuple[LoadKey, ...] = ()
    """The loads that now have the credentials that the store refused (`DENIED` or `EXPIRED`)."""


class ShardAdopted(Event, frozen=True):
    """A slab that an earlier daemon left is adopted, before any load is opened.

    The adopted slabs together fit the memory limit; the caller has checked that.
    """

    shard: ShardKey
    size_bytes: int
    resident: tuple[tuple[int, int], ...]
    """Blocks that are in the slab, as half-open ranges."""
    proven: bool
    """Whether the resident blocks may be granted at once; else each waits for `BlockProven`."""
    in_use: bool
    """Whether clients of the earlier daemon may have the slab mapped."""
    pinned: bool
    last_used_s: float
    remote: bool = False


class BlockProven(Event, frozen=True):
    """An adopted block has the checksum that was taken when it was read."""

    shard: ShardKey
    block: int


class BlockRefuted(Event, frozen=True):
    """An adopted block does not have the checksum that was taken when it was read."""

    shard: ShardKey
    block: int


class BlocksReleased(Event, frozen=True):
    """Memory behind these blocks went back to the system."""

    shard: ShardKey
    start: int
    stop: int


class ShardSuperseded(Event, frozen=True):
    """The bytes of the source now differ from the shard's: no load may read on."""

    shard: ShardKey
    message: str


class ShardRefused(Event, frozen=True):
    """One load gets no further block of one of its shards; other loads read on."""

    load: LoadKey
    shard: ShardKey
    code: str
    message: str


class EvictRequested(Event, frozen=True):
    """Drop these shards. The caller has checked that none is leased or pinned."""

    shards: tuple[ShardKey, ...]


class PinRequested(Event, frozen=True):
    shards: tuple[ShardKey, ...]


class UnpinRequested(Event, frozen=True):
    shards: tuple[ShardKey, ...]


class LimitChanged(Event, frozen=True):
    """The configuration was reloaded with another memory limit."""

    limit_bytes: int


class Tick(Event, frozen=True):
    """Time passed."""


AnyEvent = (
    LoadOpened
    | WantsReplaced
    | BlocksConsumed
    | ShardsReleased
    | LoadClosed
    | CredentialsRenewed
    | OwnerGone
    | BlockFetched
    | FetchFailed
    | ShardAdopted
    | BlockProven
    | BlockRefuted
    | BlocksReleased
    | ShardSuperseded
    | ShardRefused
    | EvictRequested
    | PinRequested
    | UnpinRequested
    | LimitChanged
    | Tick
)

"""Commands: the only output of the core. `service/carrying.py` carries them out. Pure."""

from __future__ import annotations

import msgspec

from streamer_client.contract.layout import BlockRange
from streamerd.state.events import LoadKey, ShardKey


class Command(msgspec.Struct, frozen=True):
    """Base of all commands."""


class CreateSlab(Command, frozen=True):
    """Make the empty shared-memory object of a shard."""

    shard: ShardKey
    size_bytes: int


class RemoveSlab(Command, frozen=True):
    """Unlink a shard's object; no block of it is reserved or resident."""

    shard: ShardKey


class ReplaceSlab(Command, frozen=True):
    """Unlink a shard's object as a whole and make an empty one in its place.

    Clients that have the old object mapped still see its bytes. Carrying this out releases the
    blocks of `ranges`.
    """

    shard: ShardKey
    size_bytes: int
    ranges: tuple[tuple[int, int], ...]


class ProveBlocks(Command, frozen=True):
    """Compare each of these adopted blocks with its checksum."""

    shard: ShardKey
    start: int
    stop: int


class FetchBlock(Command, frozen=True):
    """Back and read one block; it is reserved in the ledger."""

    shard: ShardKey
    block: int
    credentials_of: LoadKey
    """The load whose credentials are used, if the source needs any."""


class ReleaseBlocks(Command, frozen=True):
    """Give the memory behind these blocks back to the system."""

    shard: ShardKey
    start: int
    stop: int


class CloseSource(Command, frozen=True):
    """Close the descriptors or readers of this shard: no load has to read it any more."""

    shard: ShardKey


class Admit(Command, frozen=True):
    """Answer an open: the load runs, and these blocks may be read at once."""

    load: LoadKey
    held: bool
    granted: tuple[BlockRange, ...]
    resident_bytes: int


class Announce(Command, frozen=True):
    """Tell a load of blocks that became readable."""

    load: LoadKey
    ranges: tuple[BlockRange, ...]


class ReportWaiting(Command, frozen=True):
    """Tell a client that its load waits for memory."""

    load: LoadKey
    needs_bytes: int
    available_bytes: int
    limit_bytes: int


class FailShard(Command, frozen=True):
    """Tell a load that one of its shards cannot be brought in."""

    load: LoadKey
    shard: int
    code: str
    message: str


class AskCredentials(Command, frozen=True):
    """Ask a load's client for renewed credentials: those that it sent have expired."""

    load: LoadKey


class Reject(Command, frozen=True):
    """Refuse an open; the core has already forgotten the load."""

    load: LoadKey
    code: str
    message: str


class Finish(Command, frozen=True):
    """Report that a prefetch is done: every block that it wanted is resident."""

    load: LoadKey


AnyCommand = (
    CreateSlab
    | RemoveSlab
    | ReplaceSlab
    | ProveBlocks
    | FetchBlock
    | ReleaseBlocks
    | CloseSource
    | Admit
    | Announce
    | ReportWaiting
    | FailShard
    | AskCredentials
    | Reject
    | Finish
)

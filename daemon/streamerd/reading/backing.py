"""What stands behind a shard of the core: its slab, its checksums, and its users' names for it.

Owns the record; `service/shards.py` owns which shards have one. Used in the daemon's loop.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import blake2s
from typing import Final, NamedTuple

from streamer_client.contract.errors import StreamerError
from streamer_client.storage.contract import StoredShard
from streamerd.reading.checksums import Checksums
from streamerd.state.events import ShardKey

MOST_NAMES: Final = 16
"""Names that are remembered of one shard; the oldest is forgotten for the next."""


class Name(NamedTuple):
    """What one user calls a shard: a path where the user runs, or an object's URI."""

    uid: int
    world: int
    """The mount namespace in which the path means something; 0 for an object."""
    text: str


@dataclass(slots=True)
class Backing:
    """One shard outside the core; lives as long as the shard does."""

    stored: StoredShard
    """Its `uri` is the name that the daemon shows: the first that it was opened by."""
    checksums: Checksums
    slab_name: str = ""
    slab: int = -1
    """Handle by which workers know the slab."""
    slab_fd: int = -1
    """The slab, open for reading and writing."""
    readonly_fd: int = -1
    """The slab, open for reading alone: a copy of this goes to clients. -1 where there is none."""
    slab_error: StreamerError | None = None
    """Why the slab could not be made."""
    ctime_ns: int = 0
    """The file's ctime when the blocks in memory were last known to be its bytes."""
    names: dict[Name, None] = field(default_factory=dict)
    """All names by which it was opened, the one used last at the end."""
    pinned_by: set[int] = field(default_factory=set)
    """Users who pinned it."""
    retries: int = 0
    """Requests to its source that were made again."""
    releases: int = 0
    """How often blocks were given back; a reader of blocks compares it before and after."""

    def note_name(self, name: Name) -> None:
        """Remember a name."""
        self.names.pop(name, None)
        while len(self.names) >= MOST_NAMES:
            del self.names[next(iter(self.names))]
        self.names[name] = None


def shard_id(key: ShardKey) -> str:
    """A short id of a shard for messages and `status`, from which its name cannot be told."""
    return blake2s(f"{key.uri}\0{key.identity}".encode(), digest_size=8).hexdigest()

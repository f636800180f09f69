"""The backing of a shard: its slab, its checksums, and its users' names for it.

The core knows a shard only by its key. The backing is what stands behind that key outside the core.
`service/shards.py` owns which shards have a backing. Used in the daemon's loop.
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
"""Number of names that are remembered for one shard. A further name replaces the oldest."""


class Name(NamedTuple):
    """One user's name for a shard: a path where the user's process runs, or an object's URI."""

    uid: int
    world: int
    """The mount namespace in which the path means something; 0 for an object."""
    text: str


@dataclass(slots=True)
class Backing:
    """The backing of one shard. It lives as long as the core knows the shard."""

    stored: StoredShard
    """Identity and size of the shard. The `uri` is the first name by which the shard was opened,
    and the name that the daemon shows."""
    checksums: Checksums
    slab_name: str = ""
    slab: int = -1
    """Handle by which workers know the slab."""
    slab_fd: int = -1
    """Descriptor of the slab, open for reading and writing."""
    readonly_fd: int = -1
    """Descriptor of the slab, open for reading alone, of which clients get copies; -1 for none."""
    slab_error: StreamerError | None = None
    """Why the slab could not be made."""
    ctime_ns: int = 0
    """The file's ctime when the blocks in memory were last known to be its bytes."""
    names: dict[Name, None] = field(default_factory=dict)
    """All names by which the shard was opened, the one used last at the end."""
    pinned_by: set[int] = field(default_factory=set)
    """Ids of the users who pinned the shard."""
    retries: int = 0
    """Number of requests to the shard's source that were repeated."""
    releases: int = 0
    """Number of times that blocks were released. Code that looks at blocks compares this number
    before and after, to see that none was released meanwhile."""

    def note_name(self, name: Name) -> None:
        """Remember a name."""
        self.names.pop(name, None)
        while len(self.names) >= MOST_NAMES:
            del self.names[next(iter(self.names))]
        self.names[name] = None


def shard_id(key: ShardKey) -> str:
    """A short id of a shard for messages and `status`, from which its name cannot be told."""
    return blake2s(f"{key.uri}\0{key.identity}".encode(), digest_size=8).hexdigest()

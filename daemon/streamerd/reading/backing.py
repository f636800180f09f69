"""What stands behind a shard of the core: its slab, its checksums, and what its users call it."""

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
    """Its `uri` is how the daemon shows it: as it was called first."""
    checksums: Checksums
    slab_name: str = ""
    slab: int = -1
    """Handle by which workers know the slab."""
    slab_fd: int = -1
    """The slab itself, open for writing; nobody else needs its name to find it."""
    readonly_fd: int = -1
    """The same for clients, who may only read it."""
    slab_error: StreamerError | None = None
    """Why it could not be made."""
    ctime_ns: int = 0
    """When anything was last done to the file, as far as what is in memory was compared with it."""
    names: dict[Name, None] = field(default_factory=dict)
    """All names by which it was opened, the one used last at the end."""
    pinned_by: set[int] = field(default_factory=set)
    """Users who asked for it to be kept."""
    retries: int = 0
    """Requests to its source that were made again."""
    releases: int = 0
    """How often blocks of it were given back: whoever looks at them notices by this."""

    def note_name(self, name: Name) -> None:
        """Remember a name."""
        self.names.pop(name, None)
        while len(self.names) >= MOST_NAMES:
            del self.names[next(iter(self.names))]
        self.names[name] = None


def shard_id(key: ShardKey) -> str:
    """What stands for a shard in messages and in `status`; says nothing else about it."""
    return blake2s(f"{key.uri}\0{key.identity}".encode(), digest_size=8).hexdigest()

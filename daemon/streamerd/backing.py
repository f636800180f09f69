"""What stands behind a shard of the core: where it is read from, and its slab."""

from __future__ import annotations

from dataclasses import dataclass

from streamer_client.storage.contract import StoredShard
from streamerd.checksums import Checksums


@dataclass(slots=True)
class Backing:
    """One shard outside the core; lives as long as the shard does."""

    stored: StoredShard
    checksums: Checksums
    slab: str = ""
    retries: int = 0
    """Requests to its source that were made again."""
    releases: int = 0
    """How often blocks of it were given back: whoever looks at them notices by this."""

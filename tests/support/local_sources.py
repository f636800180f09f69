"""Local sources for tests of the storage code."""

from __future__ import annotations

from pathlib import Path

from streamer_client.storage.contract import StoredShard
from streamer_client.storage.local import LocalStorage


def listed(storage: LocalStorage, path: Path) -> StoredShard:
    (shard,) = storage.list_shards(str(path), None, None)
    return shard

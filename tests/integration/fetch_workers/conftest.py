"""A stored shard and a slab for it."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamer_client.storage.contract import StoredShard
from streamer_client.storage.local import LocalStorage
from streamerd.shm.slabs import create_slab, remove_slab, slab_name
from tests.support.checkpoints import write_model


@pytest.fixture
def stored(tmp_path: Path) -> StoredShard:
    write_model(tmp_path / "m", shards=1, blocks=5)
    (shard,) = LocalStorage().list_shards(str(tmp_path / "m"), None, None)
    return shard


@pytest.fixture
def slab(stored: StoredShard, tmp_path: Path) -> Iterator[str]:
    name = slab_name(secrets.token_hex(4), stored.uri, stored.identity, 1)
    os.close(create_slab(name, stored.size_bytes))
    yield name
    remove_slab(name)

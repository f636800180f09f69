"""A real etcd, and a store that counts what is read, with a model of two shards in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.checkpoints import write_model
from tests.support.etcd import EtcdServer, etcd_server
from tests.support.fleet_nodes import SOURCE
from tests.support.guarded_store import GuardedStore, guarded_store

BLOCKS = 12


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[EtcdServer]:
    with etcd_server(tmp_path / "etcd") as running:
        yield running


@pytest.fixture
def store() -> Iterator[GuardedStore]:
    with guarded_store() as running:
        yield running


@pytest.fixture
def files(store: GuardedStore, tmp_path: Path) -> list[bytes]:
    paths = write_model(tmp_path / "llama", shards=2, blocks=BLOCKS)
    store.put_model(tmp_path / "llama", SOURCE)
    return [path.read_bytes() for path in paths]

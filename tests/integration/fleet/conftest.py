"""Fixtures: a real etcd, and a store that counts its requests and has a model of two shards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.checkpoints import write_model
from tests.support.etcd import EtcdServer, etcd_server
from tests.support.fleet_nodes import SOURCE
from tests.support.guarded_store import GuardedStore, guarded_store

BLOCKS = 12


@pytest.fixture(scope="package")
def shared_etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    with etcd_server(tmp_path_factory.mktemp("etcd")) as running:
        yield running


@pytest.fixture
def etcd(shared_etcd: EtcdServer, tmp_path: Path) -> EtcdServer:
    """One etcd for all tests; each test has a prefix of its own in it."""
    shared_etcd.prefix = f"/{tmp_path.name}"
    return shared_etcd


@pytest.fixture
def own_etcd(tmp_path: Path) -> Iterator[EtcdServer]:
    """An etcd for a test that stops it."""
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

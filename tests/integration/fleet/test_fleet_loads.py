"""Nodes of a fleet that load one model: real daemons, a real etcd, a store that counts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.certificates import Authority
from tests.support.checkpoints import write_model
from tests.support.daemon import BLOCK, Daemons
from tests.support.etcd import EtcdServer, etcd_server
from tests.support.fleet_nodes import Nodes, certificate_flags, fleet_of, read
from tests.support.guarded_store import GuardedStore, guarded_store

SOURCE = "s3://models/llama"
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


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_a_late_node_reads_nothing_from_the_store(
    daemon_maker: Daemons,
    etcd: EtcdServer,
    store: GuardedStore,
    files: list[bytes],
    tmp_path: Path,
    tls: bool,
) -> None:
    flags = certificate_flags(Authority(tmp_path), tmp_path, "node") if tls else ()
    first, second = Nodes(daemon_maker, etcd.members_uri, *flags).together(2)
    assert read(first, SOURCE, store.environ()) == files
    store.seen.clear()
    assert read(second, SOURCE, store.environ()) == files
    assert not store.reads()
    assert fleet_of(second)["peer_bytes"] == sum(map(len, files))
    assert second.totals()["source_read_bytes"] == 0

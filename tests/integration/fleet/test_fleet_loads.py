"""Nodes of a fleet load one model: real daemons, a real etcd, and a store that counts."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.certificates import Authority
from tests.support.daemon import BLOCK, Daemons
from tests.support.etcd import EtcdServer, free_port
from tests.support.fleet_nodes import SOURCE, Nodes, certificate_flags, fleet_of, read
from tests.support.guarded_store import GuardedStore
from tests.support.waiting import eventually


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
    size_bytes = sum(map(len, files))
    assert fleet_of(second)["peer_bytes"] == size_bytes
    assert second.totals()["source_read_bytes"] == 0
    assert f"from_other_loads_bytes=0 from_other_nodes_bytes={size_bytes} " in second.log
    eventually(lambda: fleet_of(first)["sent_bytes"] == size_bytes, 10)


def test_nodes_that_start_at_once_read_the_store_about_once(
    daemon_maker: Daemons, etcd: EtcdServer, store: GuardedStore, files: list[bytes]
) -> None:
    nodes = Nodes(daemon_maker, etcd.members_uri).together(3)
    with ThreadPoolExecutor(3) as pool:
        for got in pool.map(lambda node: read(node, SOURCE, store.environ()), nodes):
            assert got == files
    blocks = sum(-(-len(file) // BLOCK) for file in files)
    assert sum(store.reads().values()) <= blocks * 1.1


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, for an /etc/hosts of its own")
def test_members_behind_a_name(
    daemon_maker: Daemons, store: GuardedStore, files: list[bytes], tmp_path: Path
) -> None:
    hosts, port = tmp_path / "hosts", free_port()
    hosts.write_text("127.0.0.2 nodes.example\n127.0.0.3 nodes.example\n127.0.0.1 localhost\n")
    script = f'mount --bind {hosts} /etc/hosts && exec "$@"'
    before = ("unshare", "--mount", "sh", "-c", script, "sh")
    nodes = Nodes(daemon_maker, f"dns://nodes.example:{port}", before=before)
    first, second = (nodes.start(f"--fleet-listen={host}:{port}") for host in HOSTS)
    nodes.know_each_other()
    assert read(first, SOURCE, store.environ()) == files
    store.seen.clear()
    assert read(second, SOURCE, store.environ()) == files
    assert not store.reads()


HOSTS = ("127.0.0.2", "127.0.0.3")

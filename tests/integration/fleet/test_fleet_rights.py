"""A caller that may not read an object gets nothing of it from peers, and no stranger is a peer."""

from __future__ import annotations

from pathlib import Path

from streamer_client.contract.errors import SourceForbidden
from streamer_client.contract.messages import Open
from tests.support.certificates import Authority
from tests.support.daemon import Daemons
from tests.support.etcd import EtcdServer
from tests.support.fleet_nodes import SOURCE, Nodes, certificate_flags, fleet_of, read
from tests.support.guarded_store import GuardedStore
from tests.support.raw_client import RawClient


def test_a_caller_without_rights_gets_nothing_from_peers(
    daemon_maker: Daemons, etcd: EtcdServer, store: GuardedStore, files: list[bytes]
) -> None:
    first, second = Nodes(daemon_maker, etcd.members_uri).together(2)
    assert read(first, SOURCE, store.environ()) == files
    store.denied.add("AKIABAD")
    store.list_only.add("AKIALISTS")
    with RawClient(second.socket) as client:
        for key in ("AKIABAD", "AKIALISTS"):
            message = Open(
                client.next_id(), client.next_id(), SOURCE, environment=store.environ(key)
            )
            assert client.refused(message).code == SourceForbidden.code
    assert fleet_of(second)["peer_bytes"] == 0
    assert second.totals()["source_read_bytes"] == 0


def test_a_node_of_another_authority_is_refused_and_reads_the_store(
    daemon_maker: Daemons,
    etcd: EtcdServer,
    store: GuardedStore,
    files: list[bytes],
    tmp_path: Path,
) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for folder in (ours, theirs):
        folder.mkdir()
    nodes = Nodes(daemon_maker, etcd.members_uri)
    first = nodes.start(*certificate_flags(Authority(ours), ours, "first"))
    stranger = nodes.start(*certificate_flags(Authority(theirs), theirs, "stranger"))
    plain = nodes.start()
    nodes.know_each_other()
    assert read(first, SOURCE, store.environ()) == files
    for each in (stranger, plain):
        assert read(each, SOURCE, store.environ()) == files
        assert fleet_of(each)["peer_bytes"] == 0
    assert fleet_of(first)["answers"].get("sent", 0) == 0

"""Members are found through etcd, which goes away and comes back, has certificates and users, and
holds other keys too.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
import requests
from etcd3gw.client import Etcd3Client

from streamerd.fleet.members.contract import MOST_MEMBERS, MembersFailed
from streamerd.fleet.members.etcd import EtcdSource
from streamerd.settings.fleet import EtcdMembers, parse_members
from tests.support.certificates import Authority
from tests.support.daemon import Daemons
from tests.support.etcd import EtcdFiles, EtcdServer, etcd_server
from tests.support.fleet_nodes import SOURCE, Nodes, read
from tests.support.guarded_store import GuardedStore

PASSWORD = "a password of nothing"  # noqa: S105  of nothing
LISTEN = "127.0.0.1:7000"


def test_etcd_goes_and_comes_back(
    daemon_maker: Daemons, own_etcd: EtcdServer, store: GuardedStore, files: list[bytes]
) -> None:
    own_etcd.stop()
    nodes = Nodes(daemon_maker, own_etcd.members_uri)
    first, second = nodes.start(), nodes.start()
    assert read(first, SOURCE, store.environ()) == files
    own_etcd.start()
    nodes.know_each_other()
    store.seen.clear()
    assert read(second, SOURCE, store.environ()) == files
    assert not store.reads()


def _told(etcd: EtcdServer, files: EtcdFiles, path: str, asked: dict[str, Any]) -> None:
    answer = requests.post(
        f"{etcd.url}/v3/{path}", json=asked, timeout=10, cert=(str(files.cert), str(files.key)),
        verify=str(files.ca),
    )  # fmt: skip
    answer.raise_for_status()


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def test_certificates_and_a_user(
    daemon_maker: Daemons, store: GuardedStore, files: list[bytes], tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
    authority.server_context()
    # Over HTTP, etcd refuses a user whose client certificate holds a name.
    cert, key = authority.node_files(tmp_path, "node", named=False)
    ours = EtcdFiles(authority.bundle, tmp_path / "server.pem", cert, key)
    password = tmp_path / "password"
    password.write_text(f"{PASSWORD}\n")
    with etcd_server(tmp_path / "etcd", ours) as etcd:
        keys = {"key": _base64("/streamerd/"), "range_end": _base64("/streamerd0")}
        permission = {"permType": "READWRITE", **keys}
        for path, asked in (
            ("auth/user/add", {"name": "root", "password": PASSWORD}),
            ("auth/role/add", {"name": "root"}),
            ("auth/user/grant", {"user": "root", "role": "root"}),
            ("auth/user/add", {"name": "member", "password": PASSWORD}),
            ("auth/role/add", {"name": "fleet"}),
            ("auth/role/grant", {"name": "fleet", "perm": permission}),
            ("auth/user/grant", {"user": "member", "role": "fleet"}),
            ("auth/enable", {}),
        ):
            _told(etcd, ours, path, asked)
        anonymous = EtcdSource(_where(etcd.members_uri), "test", LISTEN)
        with pytest.raises(MembersFailed):
            anonymous.look()
        anonymous.leave()
        members = f"{etcd.members_uri}&user=member&password_file={password}"
        first, second = Nodes(daemon_maker, members).together(2)
        assert read(first, SOURCE, store.environ()) == files
        store.seen.clear()
        assert read(second, SOURCE, store.environ()) == files
        assert not store.reads()


def _where(uri: str) -> EtcdMembers:
    where = parse_members(uri)
    assert isinstance(where, EtcdMembers)
    return where


def _client(etcd: EtcdServer) -> Etcd3Client:
    return Etcd3Client("127.0.0.1", etcd.port, timeout=10)


def test_what_is_no_address_is_no_member(etcd: EtcdServer) -> None:
    client, folder = _client(etcd), f"{etcd.prefix}/fleet/test/"
    for name in ("", "x", "a.example:7000", "127.0.0.2", "127.0.0.2:99999", "[::1%1]:7000"):
        client.put(f"{folder}{name}", "garbage")
    client.put(f"{folder}127.0.0.3:7000", "a" * (1 << 20))
    source = EtcdSource(_where(etcd.members_uri), "test", LISTEN)
    try:
        assert source.look() == {LISTEN, "127.0.0.3:7000"}
    finally:
        source.leave()


def test_more_members_than_are_taken(etcd: EtcdServer) -> None:
    """A list that somebody has filled with members is cut, and one with huge keys is refused."""
    client, folder = _client(etcd), f"{etcd.prefix}/fleet/test/"
    addresses = [
        f"10.{n >> 12 & 15}.{n >> 6 & 63}.{n & 63}:7000" for n in range(MOST_MEMBERS + 100)
    ]
    for start in range(0, len(addresses), 100):
        puts = [
            {"requestPut": {"key": _base64(folder + address), "value": ""}}
            for address in addresses[start : start + 100]
        ]
        client.transaction({"compare": [], "success": puts, "failure": []})
    source = EtcdSource(_where(etcd.members_uri), "test", LISTEN)
    try:
        assert len(source.look()) == MOST_MEMBERS
        for number in range(5):
            client.put(f"{folder}0{number}" + "a" * (1 << 20), "")
        # The answer is too long, or has not arrived completely in time.
        with pytest.raises(MembersFailed):
            source.look()
    finally:
        source.leave()

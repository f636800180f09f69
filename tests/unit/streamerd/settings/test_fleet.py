from __future__ import annotations

import pytest

from streamer_client.contract.errors import ConfigError
from streamerd.memory.room import MemoryRoom
from streamerd.settings.config import load_settings
from streamerd.settings.fleet import (
    Certificates,
    DnsMembers,
    EtcdMembers,
    parse_members,
    terms_of,
)

GIB = 1 << 30
ROOM = MemoryRoom(machine_bytes=64 * GIB, cgroup_bytes=None, mount_bytes=32 * GIB)
WHERE = {"fleet": "gpus", "fleet_members": "dns://nodes:7270", "fleet_listen": "127.0.0.1:7270"}


def _settings(**given: object) -> object:
    return load_settings({**WHERE, **given}, {}, room=ROOM)[0]


@pytest.mark.parametrize(
    ("uri", "members"),
    [
        ("etcd://a", EtcdMembers(endpoints=(("a", 2379),))),
        ("etcd://a:1,[::1]:2,[::2]", EtcdMembers(endpoints=(("a", 1), ("::1", 2), ("::2", 2379)))),
        (
            "etcd://a?ca=/c&user=u&password_file=/p&prefix=/x",
            EtcdMembers(
                endpoints=(("a", 2379),),
                ca="/c",
                user="u",
                password_file="/p",  # noqa: S106  a path
                prefix="/x",
            ),
        ),
        ("dns://nodes.svc:7270", DnsMembers(host="nodes.svc", port=7270)),
    ],
)
def test_where_members_are_found(uri: str, members: object) -> None:
    assert parse_members(uri) == members


@pytest.mark.parametrize(
    "uri",
    [
        "nodes", "http://a:1", "dns://nodes", "dns://:7", "dns://a:1/path", "dns://a:1?x=y",
        "etcd://", "etcd://a,", "etcd://user:secret@a", "etcd://a?caa=/c", "etcd://a?cert=/c",
        "etcd://a/path", "etcd://a:99999",
    ],
)  # fmt: skip
def test_other_texts_are_refused(uri: str) -> None:
    with pytest.raises(ConfigError):
        _settings(fleet_members=uri)


@pytest.mark.parametrize("address", ["7270", "nodes:7270", "127.0.0.1", "127.0.0.1:0", "::1:7270"])
def test_an_address_to_listen_at_is_an_ip_address_with_a_port(address: str) -> None:
    with pytest.raises(ConfigError):
        _settings(fleet_listen=address)


@pytest.mark.parametrize(
    "given",
    [
        {"fleet_members": ""},
        {"fleet_listen": ""},
        {"fleet_tls_cert": "/c"},
        {"fleet_listen": "10.0.0.4:7270"},
        {"fleet_listen": "0.0.0.0:7270"},
        {"fleet": "a b"},
        {"fleet": "../x"},
    ],
)
def test_a_fleet_that_lacks_something_or_would_be_open_is_refused(given: dict[str, str]) -> None:
    with pytest.raises(ConfigError):
        _settings(**given)


def test_certificates_or_trust_open_it_to_a_network() -> None:
    files = {"fleet_tls_cert": "/c", "fleet_tls_key": "/k", "fleet_tls_ca": "/a"}
    settings, _ = load_settings({**WHERE, "fleet_listen": "[::]:7270", **files}, {}, room=ROOM)
    terms = terms_of(settings)
    assert (terms.certificates, terms.scheme) == (Certificates("/c", "/k", "/a"), "https")
    settings, _ = load_settings(
        {**WHERE, "fleet_listen": "[::]:7270", "fleet_insecure": True}, {}, room=ROOM
    )
    assert terms_of(settings).scheme == "http"

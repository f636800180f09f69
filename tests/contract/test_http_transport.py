"""Certificates, proxies and wrong addresses, over real sockets."""

from __future__ import annotations

import http.client
import ipaddress
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.contract.storage_contract import content
from tests.support.certificates import Authority
from tests.support.fault_proxy import Asked, FaultProxy, Reply, fault_proxy
from tests.support.forward_proxy import forward_proxy
from tests.support.object_backends import MemoryStore, error_reply

from streamer_client.contract.errors import (
    ConfigError,
    SourceError,
    SourceForbidden,
    StreamerError,
)
from streamer_client.storage.environment import authorities_of
from streamer_client.storage.http.engine import Waits
from streamer_client.storage.http.transport import connection
from streamer_client.storage.s3.storage import S3Storage

SIZE = 100_000


@pytest.fixture
def store() -> MemoryStore:
    store = MemoryStore()
    store.put("/bucket/a.st", content(SIZE))
    return store


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def plain(store: MemoryStore) -> Iterator[FaultProxy]:
    with fault_proxy(store) as server:
        yield server


@pytest.fixture
def secured(store: MemoryStore, authority: Authority) -> Iterator[FaultProxy]:
    with fault_proxy(store, authority.server_context()) as server:
        yield server


def read(url: str, **environment: str) -> bytes:
    """Read the object by S3 at this endpoint, without pauses between attempts."""
    given = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "hush", "AWS_ENDPOINT_URL": url}
    given |= environment | authorities_of(environment)
    storage = S3Storage(given, Waits(sleep=lambda _seconds: None))
    (shard,) = storage.list_shards("s3://bucket/a.st", None, ["s3://bucket/a.st"])
    target = bytearray(shard.size_bytes)
    reader = storage.open(shard)
    reader.readinto(memoryview(target), 0)
    reader.close()
    return bytes(target)


def error(url: str, **environment: str) -> StreamerError:
    with pytest.raises(StreamerError) as caught:
        read(url, **environment)
    assert "hush" not in str(caught.value)
    return caught.value


# --- TLS


def test_a_certificate_of_an_authority_of_ones_own(
    secured: FaultProxy, authority: Authority
) -> None:
    for name in ("AWS_CA_BUNDLE", "SSL_CERT_FILE"):
        assert read(secured.url, **{name: str(authority.bundle)}) == content(SIZE)


def test_a_certificate_that_nobody_vouches_for_is_refused_at_once(secured: FaultProxy) -> None:
    told = error(secured.url)
    assert type(told) is SourceError
    assert "is not trusted" in str(told)
    assert "AWS_CA_BUNDLE" in str(told)
    assert "given up after" not in str(told)
    assert secured.seen == []


def test_verification_can_be_told_off(secured: FaultProxy) -> None:
    assert read(secured.url, STREAMER_TLS_VERIFY="0") == content(SIZE)


def test_a_certificate_for_another_host(store: MemoryStore, authority: Authority) -> None:
    with fault_proxy(store, authority.server_context("other.example")) as server:
        told = error(server.url, AWS_CA_BUNDLE=str(authority.bundle))
    assert "127.0.0.1" in str(told)
    assert "correct the endpoint's name" in str(told)


@pytest.mark.parametrize("text", [None, "no certificate at all"])
def test_a_bundle_that_cannot_be_used(text: str | None, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle.pem"
    if text:
        bundle.write_text(text)
    told = error("https://127.0.0.1:1", AWS_CA_BUNDLE=str(bundle))
    assert isinstance(told, ConfigError)
    assert str(bundle) in str(told)


def test_tls_spoken_to_a_server_that_knows_none(plain: FaultProxy) -> None:
    told = error(plain.url.replace("http://", "https://"))
    assert "does not speak TLS; write the endpoint with http://" in str(told)


# --- wrong addresses


def test_nobody_listens() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        told = error(f"http://127.0.0.1:{unused.getsockname()[1]}")
    assert "given up after 4 attempts" in str(told)
    assert "Connection refused; check that the endpoint is right" in str(told)


def test_no_such_name() -> None:
    told = error("http://no-such-host.invalid")
    assert "the name no-such-host.invalid" in str(told)
    assert "does not resolve" in str(told)
    assert "DNS" in str(told)


def test_metadata_services_are_asked_by_nobody(
    plain: FaultProxy, secured: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "METADATA_NETWORKS", (ipaddress.ip_network("127.0.0.0/8"),))
    for url in (plain.url, secured.url):
        told = error(url, STREAMER_TLS_VERIFY="0")
        assert isinstance(told, SourceForbidden)
        assert "its host is 127.0.0.1, where clouds keep the credentials" in str(told)
        assert "given up after" not in str(told)
    assert plain.seen == secured.seen == []


# --- proxies


def test_tls_goes_through_a_tunnel(secured: FaultProxy, authority: Authority) -> None:
    with forward_proxy("Basic dXNlcjpodXNo") as proxy:
        way = {"HTTPS_PROXY": f"http://user:hush@{proxy.address}"}
        found = read(secured.url, AWS_CA_BUNDLE=str(authority.bundle), **way)
        assert found == content(SIZE)
        assert proxy.passed == [f"CONNECT {secured.url.removeprefix('https://')}"]


def test_plain_text_is_asked_of_the_proxy(plain: FaultProxy) -> None:
    with forward_proxy("Basic dXNlcjpodXNo") as proxy:
        assert read(plain.url, http_proxy=f"http://user:hush@{proxy.address}") == content(SIZE)
        assert f"GET {plain.url}/bucket/a.st" in proxy.passed


def test_past_the_proxy(plain: FaultProxy) -> None:
    with forward_proxy() as proxy:
        way = {"HTTP_PROXY": f"http://{proxy.address}", "NO_PROXY": "127.0.0.0/8"}
        assert read(plain.url, **way) == content(SIZE)
        assert proxy.passed == []


def test_a_proxy_that_wants_to_know_who_asks(plain: FaultProxy, secured: FaultProxy) -> None:
    with forward_proxy("Basic something") as proxy:
        for url in (plain.url, secured.url):
            told = error(url, ALL_PROXY=f"http://{proxy.address}", STREAMER_TLS_VERIFY="0")
            assert isinstance(told, SourceForbidden)
            assert "407" in str(told)
            assert "http://user:password@host:port" in str(told)


# --- servers that answer in part


class GetOnly(MemoryStore):
    """A server that refuses HEAD and allows GET, as with a presigned URL."""

    def answer(self, asked: Asked) -> Reply:
        if asked.method == "HEAD":
            return error_reply(403, "SignatureDoesNotMatch", "HEAD was not signed.")
        return super().answer(asked)


def test_where_head_is_refused_the_first_byte_tells() -> None:
    store = GetOnly()
    store.put("/bucket/a.st", content(SIZE))
    with fault_proxy(store) as server:
        assert read(server.url) == content(SIZE)
        store.put("/bucket/a.st", b"")
        assert read(server.url) == b""


class Renewed(MemoryStore):
    """A server that accepts a session token only for as long as the test says."""

    def answer(self, asked: Asked) -> Reply:
        if asked.headers.get("x-amz-security-token") == "old":
            return error_reply(400, "ExpiredToken", "The provided token has expired.")
        return super().answer(asked)


def test_what_a_refused_head_means_is_found_out() -> None:
    store = Renewed()
    store.put("/bucket/a.st", content(SIZE))
    with fault_proxy(store) as server:
        old, new = ({"AWS_SESSION_TOKEN": token} for token in ("old", "new"))
        assert error(server.url, **old).code == "credentials-expired"
        assert read(server.url, **new) == content(SIZE)


class Chunked(MemoryStore):
    """A server that sends bodies without their length, as some gateways do."""

    def answer(self, asked: Asked) -> Reply:
        reply = super().answer(asked)
        if asked.method == "HEAD":
            return reply
        size = f"{len(reply.body):x}\r\n".encode()
        headers = {**reply.headers, "Transfer-Encoding": "chunked", "Content-Length": ""}
        return Reply(reply.status, headers, size + reply.body + b"\r\n0\r\n\r\n")


def test_a_body_in_chunks() -> None:
    store = Chunked()
    store.put("/bucket/a.st", content(SIZE))
    with fault_proxy(store) as server:
        assert read(server.url) == content(SIZE)


def test_connections_are_kept(plain: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    connect = http.client.HTTPConnection.connect

    def counted(connection: http.client.HTTPConnection) -> None:
        made.append(connection)
        connect(connection)

    monkeypatch.setattr(http.client.HTTPConnection, "connect", counted)
    assert read(plain.url) == content(SIZE)
    assert read(plain.url) == content(SIZE)
    assert len(plain.seen) == 4  # each read sends a HEAD and a GET
    assert len(made) == 1

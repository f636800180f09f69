"""Web servers: the reading part of the contract, in plain text and over TLS, and properties of
their own.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.contract.storage_contract import KIB, ReadingContract, content
from tests.support.certificates import Authority
from tests.support.fault_proxy import Asked, FaultProxy, Reply, fault_proxy, ranges
from tests.support.object_backends import MemoryStore

from streamer_client.contract.errors import (
    ConfigError,
    SourceChanged,
    SourceError,
    SourceForbidden,
    SourceNotFound,
)
from streamer_client.storage.contract import StoredShard
from streamer_client.storage.registry import public_uri, source_environment
from streamer_client.storage.web.secrets import UrlSecrets
from streamer_client.storage.web.storage import WebStorage


class Site:
    """A directory of a web server as a backend."""

    def __init__(self, proxy: FaultProxy, store: MemoryStore, **environment: str) -> None:
        self.storage = WebStorage(environment)
        self.proxy = proxy
        self.store = store
        self.source = f"{proxy.url}/models/tiny"

    def put(self, name: str, data: bytes) -> None:
        self.store.put(f"/models/tiny/{name}", data)

    def remove(self, name: str) -> None:
        del self.store.objects[f"/models/tiny/{name}"]

    def uri(self, name: str) -> str:
        return f"{self.source}/{name}"


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def site(store: MemoryStore) -> Iterator[Site]:
    with fault_proxy(store) as proxy:
        yield Site(proxy, store)


class TestHttp(ReadingContract):
    @pytest.fixture
    def backend(self, site: Site) -> Site:
        return site


class TestHttps(ReadingContract):
    @pytest.fixture
    def backend(self, store: MemoryStore, tmp_path: Path) -> Iterator[Site]:
        authority = Authority(tmp_path)
        with fault_proxy(store, authority.server_context()) as proxy:
            yield Site(proxy, store, STREAMER_TLS_AUTHORITIES=authority.bundle.read_text())


class TestHttpWithoutEtags(ReadingContract):
    """A server without ETags, so that only Last-Modified and the size can tell contents apart."""

    @pytest.fixture
    def backend(self, site: Site) -> Site:
        site.store.sends_etag = False
        return site


def read(storage: WebStorage, shard: StoredShard) -> bytes:
    target = bytearray(shard.size_bytes)
    reader = storage.open(shard)
    reader.readinto(memoryview(target), 0)
    reader.close()
    return bytes(target)


def test_one_ranged_get_for_each_block(site: Site) -> None:
    site.put("a.safetensors", content(100 * KIB))
    (shard,) = site.storage.list_shards(site.uri("a.safetensors"), None, None)
    reader = site.storage.open(shard)
    target = memoryview(bytearray(100 * KIB))
    for start in range(0, 100 * KIB, 25 * KIB):
        reader.readinto(target[start : start + 25 * KIB], start)
    reader.close()
    assert ranges(site.proxy.gets()) == [
        (start, start + 25 * KIB) for start in range(0, 100 * KIB, 25 * KIB)
    ]


# --- finding what cannot be listed


def with_index(site: Site, *names: str) -> None:
    weights = {f"layer.{place}": name for place, name in enumerate(names)}
    site.put("model.safetensors.index.json", json.dumps({"weight_map": weights}).encode())
    for name in names:
        site.put(name, name.encode())


def test_an_index_names_the_shards(site: Site) -> None:
    with_index(site, "m-10.safetensors", "m-2.safetensors", "m-2.safetensors")
    for source in (site.source, site.source + "/"):
        shards = site.storage.list_shards(source, None, None)
        assert [shard.uri for shard in shards] == [
            site.uri("m-2.safetensors"),
            site.uri("m-10.safetensors"),
        ]
    (shard,) = site.storage.list_shards(site.source, "*-10.*", None)
    assert read(site.storage, shard) == b"m-10.safetensors"
    with pytest.raises(SourceNotFound, match=r"matches 'x\*'.*there is: m-2"):
        site.storage.list_shards(site.source, "x*", None)


def test_a_single_file_needs_no_index(site: Site) -> None:
    site.put("model.safetensors", b"x")
    (shard,) = site.storage.list_shards(site.source, None, None)
    assert shard.uri == site.uri("model.safetensors")


def test_a_pattern_without_wildcards_is_a_name(site: Site) -> None:
    site.put("model-rank-0-part-0.safetensors", b"x")
    (shard,) = site.storage.list_shards(site.source, "model-rank-0-part-0.safetensors", None)
    assert shard.uri == site.uri("model-rank-0-part-0.safetensors")


def test_a_directory_without_index_says_what_to_do(site: Site) -> None:
    with pytest.raises(SourceNotFound, match=r"cannot be listed.*name the files, or serve model"):
        site.storage.list_shards(site.source + "/", None, None)


def test_an_index_that_is_none_or_leads_elsewhere(site: Site) -> None:
    site.put("model.safetensors.index.json", b"<html>")
    with pytest.raises(SourceError, match="is no index"):
        site.storage.list_shards(site.source, None, None)
    with_index(site, "../other.safetensors")
    with pytest.raises(SourceError, match="not beside it"):
        site.storage.list_shards(site.source, None, None)


def test_everything_is_what_usually_lies_beside_the_weights(site: Site) -> None:
    with_index(site, "m-1.safetensors")
    site.put("config.json", b"{}")
    site.put("tokenizer.json", b"{}")
    names = ["config.json", "m-1.safetensors", "model.safetensors.index.json", "tokenizer.json"]
    found = site.storage.list_all(site.source + "/")
    assert [shard.uri for shard in found] == [site.uri(name) for name in names]
    with pytest.raises(SourceNotFound, match="nothing of a checkpoint"):
        site.storage.list_all(f"{site.proxy.url}/empty/")


# --- servers that do not do what is needed


def test_a_server_that_ignores_ranges(site: Site) -> None:
    site.store.honours_range = False
    data = content(1000)
    site.put("a.bin", data)
    (shard,) = site.storage.list_shards(site.uri("a.bin"), None, None)
    assert read(site.storage, shard) == data  # this read asks for the whole file, and gets it
    reader = site.storage.open(shard)
    for start, stop in ((0, 500), (500, 1000), (1, 2)):
        target = bytearray(stop - start)
        with pytest.raises(SourceError, match="honours Range") as caught:
            reader.readinto(memoryview(target), start)
        assert not isinstance(caught.value, SourceChanged)
        assert target == bytes(stop - start)
    reader.close()


def test_a_server_that_proves_nothing_or_packs(site: Site) -> None:
    site.store.sends_etag = False
    site.store.extra = {"Last-Modified": ""}
    site.put("a.bin", content(1000))
    with pytest.raises(SourceError, match="neither ETag nor Last-Modified"):
        site.storage.list_shards(site.uri("a.bin"), None, None)
    site.store.extra = {"Content-Encoding": "gzip"}
    (shard,) = site.storage.list_shards(site.uri("a.bin"), None, None)
    with pytest.raises(SourceError, match="Content-Encoding gzip"):
        read(site.storage, shard)


class Redirecting(MemoryStore):
    """Redirects requests for /from/... to /to/... of another server, or of this one."""

    def __init__(self) -> None:
        super().__init__()
        self.other = ""
        self.refuses_after = 1 << 30

    def answer(self, asked: Asked) -> Reply:
        if asked.path.startswith("/from/"):
            return Reply(302, {"Location": self.other + asked.path.replace("/from/", "/to/")})
        self.refuses_after -= 1
        return Reply(403) if self.refuses_after == 0 else super().answer(asked)


def test_redirects_are_followed_once_and_remembered() -> None:
    store = Redirecting()
    store.put("/to/a.bin", content(1000))
    with fault_proxy(store) as first, fault_proxy(store) as second:
        store.other = second.url
        storage = WebStorage({"STREAMER_HTTP_BEARER": "a-token"})
        (shard,) = storage.list_shards(f"{first.url}/from/a.bin", None, None)
        reader = storage.open(shard)
        target = memoryview(bytearray(1000))
        for start in range(0, 1000, 250):
            reader.readinto(target[start : start + 250], start)
        assert target == content(1000)
        assert len(first.seen) == 1
        assert first.seen[0].asked.headers["authorization"] == "Bearer a-token"
        assert all("authorization" not in seen.asked.headers for seen in second.seen)
        store.refuses_after = 1  # the store refuses once, as it refuses an expired signed URL
        reader.readinto(target[:250], 0)
        assert len(first.seen) == 2


# --- secrets


def test_secrets_of_a_url_travel_apart_and_are_never_shown(site: Site) -> None:
    data = content(100)
    site.put("a.safetensors", data)
    scheme, _, rest = site.uri("a.safetensors").partition("://")
    given = f"{scheme}://user:hush@{rest}?X-Amz-Signature=hush2&part=1"
    environment = source_environment(given, {}).resolved()
    public = public_uri(given)
    assert public == f"{scheme}://{rest}?part=1"
    for source in (given, public):
        storage = WebStorage(environment)
        (shard,) = storage.list_shards(source, None, None)
        assert read(storage, shard) == data
        assert shard.uri == public
    for seen in site.proxy.seen:
        assert seen.asked.target.endswith("?part=1&X-Amz-Signature=hush2")
        assert seen.asked.headers["authorization"] == "Basic dXNlcjpodXNo"
    site.remove("a.safetensors")
    with pytest.raises(SourceNotFound) as caught:
        WebStorage({}).list_shards(given, None, None)
    assert "hush" not in str(caught.value)


def test_different_signatures_for_files_of_one_load(site: Site) -> None:
    with pytest.raises(ConfigError, match="different passwords or signatures"):
        site.storage.list_shards(site.source, None, [site.uri("a?sig=1"), site.uri("b?sig=2")])


class Halting(MemoryStore):
    """Holds the first index back until it is told to go on."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = threading.Event()
        self.go_on = threading.Event()

    def answer(self, asked: Asked) -> Reply:
        if asked.path.endswith("/first/model.safetensors.index.json"):
            self.asked.set()
            assert self.go_on.wait(10)
        return super().answer(asked)


def test_two_threads_of_one_storage_send_their_own_secrets() -> None:
    store = Halting()
    for folder in ("first", "second"):
        store.put(
            f"/{folder}/model.safetensors.index.json",
            json.dumps({"weight_map": {"layer": "m.safetensors"}}).encode(),
        )
        store.put(f"/{folder}/m.safetensors", folder.encode())
    with fault_proxy(store) as proxy, ThreadPoolExecutor(1) as threads:
        storage = WebStorage({})

        def listed(folder: str, password: str) -> StoredShard:
            scheme, _, rest = proxy.url.partition("://")
            source = f"{scheme}://u:{password}@{rest}/{folder}/?X-Amz-Signature={password}"
            (shard,) = storage.list_shards(source, None, None)
            return shard

        first = threads.submit(listed, "first", "one")
        assert store.asked.wait(10)
        second = listed("second", "two")
        store.go_on.set()
        assert read(storage, first.result()) == b"first"
        assert read(storage, second) == b"second"
        for folder, password in (("first", "one"), ("second", "two")):
            asked = [seen.asked for seen in proxy.seen if f"/{folder}/" in seen.asked.path]
            authorization = UrlSecrets(userinfo=f"u:{password}").headers()["Authorization"]
            assert {one.headers["authorization"] for one in asked} == {authorization}
            assert all(one.target.endswith(f"Signature={password}") for one in asked)


class Closed(MemoryStore):
    def answer(self, asked: Asked) -> Reply:
        del asked
        return Reply(401, {"WWW-Authenticate": "Basic"}, b"who are you?")


def test_credentials_are_asked_for() -> None:
    with (
        fault_proxy(Closed()) as proxy,
        pytest.raises(SourceForbidden, match=r"HTTP 401.*STREAMER_HTTP_BEARER"),
    ):
        WebStorage({}).list_shards(f"{proxy.url}/a.safetensors", None, None)

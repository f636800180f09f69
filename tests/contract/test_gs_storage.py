"""Google Cloud Storage: the contract over real HTTP, and the properties that only its buckets have.

It runs against the emulator from PyPI, and against a store that also knows preconditions.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.contract.storage_contract import KIB, Backend, StorageContract, content
from tests.support.fault_proxy import Fault, FaultProxy, Seen, fault_proxy, ranges
from tests.support.gcs_emulator import create_bucket, gcs_emulator, put_object, remove_object
from tests.support.gcs_store import GcsStore
from tests.support.object_backends import Forward

from streamer_client.contract.errors import (
    ConfigError,
    CredentialsExpired,
    SourceChanged,
    SourceError,
    SourceForbidden,
    SourceNotFound,
)
from streamer_client.storage.contract import BucketNotFound
from streamer_client.storage.gs.storage import GsStorage
from streamer_client.storage.http.engine import Waits

_numbers = itertools.count()

NO_WAITS = Waits(sleep=lambda _seconds: None)

SOURCE = "gs://models/llama/tiny"


class Bucket:
    """A prefix of a bucket of the store in memory as a backend."""

    source = SOURCE

    def __init__(self, proxy: FaultProxy, store: GcsStore) -> None:
        self.proxy = proxy
        self.store = store
        self.storage = self.as_caller()

    def as_caller(self, **environment: str) -> GsStorage:
        return GsStorage({"STREAMER_GCS_ENDPOINT": self.proxy.url, **environment}, NO_WAITS)

    def put(self, name: str, data: bytes) -> None:
        self.store.put("models", f"llama/tiny/{name}", data)

    def remove(self, name: str) -> None:
        del self.store.objects["models", f"llama/tiny/{name}"]

    def uri(self, name: str) -> str:
        return f"{self.source}/{name}"


class EmulatedBucket:
    """A prefix of a bucket of the emulator."""

    def __init__(self, proxy: FaultProxy, emulator: str, bucket: str) -> None:
        self.storage = GsStorage({"STREAMER_GCS_ENDPOINT": proxy.url})
        self.proxy = proxy
        self.source = f"gs://{bucket}/models/tiny"
        self._emulator = emulator
        self._bucket = bucket

    def put(self, name: str, data: bytes) -> None:
        put_object(self._emulator, self._bucket, f"models/tiny/{name}", data)

    def remove(self, name: str) -> None:
        remove_object(self._emulator, self._bucket, f"models/tiny/{name}")

    def uri(self, name: str) -> str:
        return f"{self.source}/{name}"


@pytest.fixture(scope="module")
def emulator() -> Iterator[str]:
    with gcs_emulator() as url:
        yield url


@pytest.fixture
def emulated(emulator: str) -> Iterator[EmulatedBucket]:
    name = f"bucket-{next(_numbers)}"
    create_bucket(emulator, name)
    with fault_proxy(Forward(emulator)) as proxy:
        yield EmulatedBucket(proxy, emulator, name)


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    store = GcsStore()
    with fault_proxy(store) as proxy:
        yield Bucket(proxy, store)


class TestGoogle(StorageContract):
    @pytest.fixture
    def backend(self, bucket: Bucket) -> Bucket:
        return bucket


class TestEmulator(StorageContract):
    @pytest.fixture
    def backend(self, emulated: EmulatedBucket) -> EmulatedBucket:
        return emulated

    @pytest.mark.skip(reason="the emulator knows no preconditions and tells no generation")
    def test_change_during_the_load(self, backend: Backend) -> None:  # type: ignore[override]
        """See `TestGoogle`."""

    @pytest.mark.skip(reason="the emulator knows no preconditions and tells no generation")
    def test_opening_what_has_changed(self, backend: Backend) -> None:
        """See `TestGoogle`."""

    @pytest.mark.skip(reason="the emulator takes no upload of an empty object")
    def test_a_shard_without_bytes(self, backend: Backend) -> None:
        """See `TestGoogle`."""


def content_gets(proxy: FaultProxy) -> list[Seen]:
    return [seen for seen in proxy.gets() if "alt=media" in seen.asked.target]


def read(bucket: Bucket | EmulatedBucket, uri: str) -> bytes:
    (shard,) = bucket.storage.list_shards(uri, None, None)
    target = bytearray(shard.size_bytes)
    reader = bucket.storage.open(shard)
    reader.readinto(memoryview(target), 0)
    reader.close()
    return bytes(target)


def test_one_ranged_get_for_each_block_and_none_twice(
    bucket: Bucket, emulated: EmulatedBucket
) -> None:
    for backend in (bucket, emulated):
        data = content(1000 * KIB)
        backend.put("a.safetensors", data)
        (shard,) = backend.storage.list_shards(backend.source, None, None)
        reader = backend.storage.open(shard)
        target = bytearray(len(data))
        blocks = [
            (start, min(start + 64 * KIB, len(data))) for start in range(0, len(data), 64 * KIB)
        ]

        def fetch(block: tuple[int, int]) -> int:
            start, stop = block
            return reader.readinto(memoryview(target)[start:stop], start)  # noqa: B023

        with ThreadPoolExecutor(4) as threads:
            counts = list(threads.map(fetch, blocks))
        assert target == data
        assert counts == [stop - start for start, stop in blocks]
        gets = content_gets(backend.proxy)
        assert sorted(ranges(gets)) == blocks
        generation = shard.identity.rpartition(" ")[2]
        assert all(f"ifGenerationMatch={generation}" in seen.asked.target for seen in gets)
        # Beside the blocks, one request lists the objects, and one looks at this object.
        assert len(backend.proxy.seen) == len(blocks) + 2
        assert reader.retries == 0
        reader.close()


@pytest.mark.parametrize("fault", Fault, ids=lambda fault: fault.name)
def test_faults_pass_and_only_what_is_missing_is_asked_for_again(
    bucket: Bucket, fault: Fault
) -> None:
    data = content(200 * KIB)
    bucket.put("a.safetensors", data)
    storage = bucket.as_caller(RUNAI_STREAMER_S3_REQUEST_TIMEOUT_MS="300")
    (shard,) = storage.list_shards(bucket.uri("a.safetensors"), None, None)
    reader = storage.open(shard)
    bucket.proxy.script = [fault, None]
    target = bytearray(len(data))
    reader.readinto(memoryview(target), 0)
    assert target == data
    assert reader.retries == 1
    first, second = ranges(content_gets(bucket.proxy))
    refused = isinstance(fault.value, int)
    assert (first, second) == ((0, len(data)), (0 if refused else len(data) // 2, len(data)))
    reader.close()


ODD_NAMES = (
    "sp ace+plus.bin",
    "per%25cent%.bin",
    "ümläut-模型.bin",
    "a//b.bin",
    "q?x=1&y#z.bin",
    "a'(b)*!~,;:@$=.bin",
)


@pytest.mark.parametrize("name", [*ODD_NAMES, "../up/./b.bin"])
def test_odd_names_are_read_right(bucket: Bucket, name: str) -> None:
    odd_name(bucket, name)


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_names_are_read_right_from_the_emulator(emulated: EmulatedBucket, name: str) -> None:
    odd_name(emulated, name)


def odd_name(backend: Bucket | EmulatedBucket, name: str) -> None:
    backend.put(name, name.encode())
    assert read(backend, backend.uri(name)) == name.encode()
    (shard,) = backend.storage.list_all(backend.source)
    assert shard.uri == backend.uri(name)


def test_more_than_a_thousand_objects_and_directory_markers(bucket: Bucket) -> None:
    names = [f"m-{number}.safetensors" for number in range(1205)]
    for name in [*names, "", "sub/", "sub/deep.txt"]:
        bucket.put(name, name.encode())
    for bucket.store.page_keys in (1000, 100):
        shards = bucket.storage.list_shards(bucket.source, None, None)
        assert [shard.uri for shard in shards] == [bucket.uri(name) for name in names]
        found = bucket.storage.list_all(bucket.source)
        assert found[-1].uri == bucket.uri("sub/deep.txt")
        assert len(found) == 1206


def test_bucket_alone_and_slashes_at_the_end(bucket: Bucket) -> None:
    bucket.store.put("models", "top.safetensors", b"x")
    bucket.put("m.safetensors", b"x")
    for source in ("gs://models", "gs://models/", "GS://models"):
        (shard,) = bucket.storage.list_shards(source, None, None)
        assert shard.uri == "gs://models/top.safetensors"
    (shard,) = bucket.storage.list_shards(bucket.source + "/", None, None)
    assert shard.uri == bucket.uri("m.safetensors")


def test_the_same_bytes_uploaded_again_are_another_identity(bucket: Bucket) -> None:
    identities = set()
    for _ in range(2):
        bucket.put("a.safetensors", b"the same bytes")
        (shard,) = bucket.storage.list_shards(bucket.source, None, None)
        identities.add(shard.identity)
    assert len(identities) == 2


def test_a_store_that_ignores_conditions_is_seen_through(bucket: Bucket) -> None:
    bucket.store.honours_conditions = False
    bucket.put("a.bin", content(100))
    (shard,) = bucket.storage.list_shards(bucket.uri("a.bin"), None, None)
    reader = bucket.storage.open(shard)
    bucket.put("a.bin", content(100, seed=2))
    target = bytearray(50)
    with pytest.raises(SourceChanged, match="expected version"):
        reader.readinto(memoryview(target), 0)
    assert target == bytes(50), "bytes of another object were handed out"


def test_tokens_and_what_their_refusal_means(bucket: Bucket) -> None:
    bucket.put("a.safetensors", b"x")
    bucket.store.accepts = "good"
    bucket.as_caller(STREAMER_GCS_BEARER="good").list_shards(SOURCE, None, None)
    with pytest.raises(CredentialsExpired, match=r"authError.*uploadid UPLOAD1.*renew") as caught:
        bucket.as_caller(STREAMER_GCS_BEARER="stale-token").list_shards(SOURCE, None, None)
    assert "stale-token" not in str(caught.value)
    with pytest.raises(SourceForbidden, match="no credentials were found"):
        bucket.storage.list_shards(SOURCE, None, None)
    with pytest.raises(SourceForbidden, match=r"USE_ANONYMOUS_CREDENTIALS=1 asks without"):
        bucket.as_caller(
            STREAMER_GCS_BEARER="good", RUNAI_STREAMER_GCS_USE_ANONYMOUS_CREDENTIALS="1"
        ).list_shards(SOURCE, None, None)


def test_a_token_that_expires_during_the_load(bucket: Bucket) -> None:
    bucket.put("a.safetensors", content(200))
    bucket.store.accepts = "first"
    storage = bucket.as_caller(STREAMER_GCS_BEARER="first")
    (shard,) = storage.list_shards(SOURCE, None, None)
    reader = storage.open(shard)
    target = bytearray(100)
    reader.readinto(memoryview(target), 0)
    bucket.store.accepts = "second"
    with pytest.raises(CredentialsExpired, match="renew"):
        reader.readinto(memoryview(target), 100)
    renewed = bucket.as_caller(STREAMER_GCS_BEARER="second").open(shard)
    renewed.readinto(memoryview(target), 100)
    assert target == content(200)[100:]


def test_who_may_read_and_not_list(bucket: Bucket) -> None:
    bucket.put("a.safetensors", b"xyz")
    bucket.store.reads_only = True
    (shard,) = bucket.storage.list_shards(bucket.uri("a.safetensors"), None, None)
    assert shard.size_bytes == 3
    with pytest.raises(SourceForbidden, match=r"needed is storage.objects.list"):
        bucket.storage.list_shards(SOURCE, None, None)


def test_buckets_whose_reader_pays(bucket: Bucket) -> None:
    bucket.put("a.safetensors", b"x")
    bucket.store.billed_project = "mine"
    with pytest.raises(SourceError, match="set GOOGLE_CLOUD_QUOTA_PROJECT"):
        bucket.storage.list_shards(SOURCE, None, None)
    payer = bucket.as_caller(GOOGLE_CLOUD_QUOTA_PROJECT="mine")
    (shard,) = payer.list_shards(SOURCE, None, None)
    payer.open(shard).readinto(memoryview(bytearray(1)), 0)


def test_what_is_not_there_is_told_apart(bucket: Bucket) -> None:
    with pytest.raises(BucketNotFound, match="check the bucket's name"):
        bucket.storage.list_shards("gs://no-such-bucket/m", None, None)
    with pytest.raises(SourceNotFound, match=r"notFound.*No such object.*check bucket and name"):
        bucket.storage.list_shards(bucket.uri("none.bin"), None, None)
    with pytest.raises(SourceNotFound, match="nothing lies under it"):
        bucket.storage.list_shards("gs://models", None, None)
    with pytest.raises(ConfigError, match="names twice"):
        bucket.storage.list_shards(SOURCE, None, ["a", bucket.uri("a")])
    with pytest.raises(ConfigError, match="is empty"):
        bucket.storage.list_shards(SOURCE, None, [])


def test_what_is_stored_compressed_is_not_read(bucket: Bucket) -> None:
    bucket.store.put("models", "llama/tiny/config.json", b"packed", encoding="gzip")
    (shard,) = bucket.storage.list_all(SOURCE)
    with pytest.raises(SourceError, match=r"stored compressed.*upload it uncompressed"):
        bucket.storage.open(shard)

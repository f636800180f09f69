"""S3: the contract against moto's server over real HTTP, and the properties that only
buckets have.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import boto3
import pytest
from tests.contract.storage_contract import KIB, StorageContract, content
from tests.support.fault_proxy import FaultProxy, fault_proxy, ranges
from tests.support.moto_server import moto_server
from tests.support.object_backends import Forward, MemoryStore

from streamer_client.contract.errors import ConfigError, SourceChanged, SourceNotFound
from streamer_client.storage.contract import BucketNotFound
from streamer_client.storage.s3.storage import S3Storage

KEYS = {
    "AWS_ACCESS_KEY_ID": "TESTKEYID",
    "AWS_SECRET_ACCESS_KEY": "the-secret-of-the-tests",
    "AWS_REGION": "us-east-1",
}

_numbers = itertools.count()


class Bucket:
    """A prefix of a bucket as a backend."""

    def __init__(self, url: str, client: Any, bucket: str) -> None:
        self.storage = S3Storage({**KEYS, "AWS_ENDPOINT_URL": url})
        self.source = f"s3://{bucket}/models/tiny"
        self.bucket = bucket
        self.client = client

    def put(self, name: str, data: bytes) -> None:
        self.client.put_object(Bucket=self.bucket, Key=f"models/tiny/{name}", Body=data)

    def remove(self, name: str) -> None:
        self.client.delete_object(Bucket=self.bucket, Key=f"models/tiny/{name}")

    def uri(self, name: str) -> str:
        return f"{self.source}/{name}"


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    with moto_server() as url:
        yield url


@pytest.fixture(scope="module")
def client(moto: str) -> Iterator[Any]:
    client = boto3.client(
        "s3",
        endpoint_url=moto,
        aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
        region_name="us-east-1",
    )
    yield client
    client.close()


@pytest.fixture
def front(moto: str) -> Iterator[FaultProxy]:
    """A proxy that records the requests that the storage sends to moto, and fails none."""
    with fault_proxy(Forward(moto)) as proxy:
        yield proxy


@pytest.fixture
def bucket(front: FaultProxy, client: Any) -> Bucket:
    name = f"bucket-{next(_numbers)}"
    client.create_bucket(Bucket=name)
    return Bucket(front.url, client, name)


class TestS3(StorageContract):
    @pytest.fixture
    def backend(self, bucket: Bucket) -> Bucket:
        return bucket


def read(bucket: Bucket, uri: str) -> bytes:
    (shard,) = bucket.storage.list_shards(uri, None, None)
    target = bytearray(shard.size_bytes)
    reader = bucket.storage.open(shard)
    reader.readinto(memoryview(target), 0)
    reader.close()
    return bytes(target)


def test_one_ranged_get_for_each_block_and_none_twice(bucket: Bucket, front: FaultProxy) -> None:
    data = content(1000 * KIB)
    bucket.put("a.safetensors", data)
    (shard,) = bucket.storage.list_shards(bucket.source, None, None)
    reader = bucket.storage.open(shard)
    target = bytearray(len(data))
    blocks = [(start, min(start + 64 * KIB, len(data))) for start in range(0, len(data), 64 * KIB)]

    def fetch(block: tuple[int, int]) -> int:
        start, stop = block
        return reader.readinto(memoryview(target)[start:stop], start)

    with ThreadPoolExecutor(4) as threads:
        counts = list(threads.map(fetch, blocks))
    assert target == data
    assert counts == [stop - start for start, stop in blocks]
    assert sorted(ranges(front.gets())) == blocks
    assert {seen.asked.headers["if-match"] for seen in front.gets()} == {
        shard.identity.rpartition(" ")[2]
    }
    methods = [seen.asked.method for seen in front.seen]
    assert methods.count("HEAD") == 1  # the listing sends it; If-Match proves the content of reads
    assert reader.retries == 0
    reader.close()


@pytest.mark.parametrize(
    "name",
    [
        "sp ace+plus.bin",
        "per%25cent%.bin",
        "ümläut-模型.bin",
        "a//b.bin",
        "q?x=1&y#z.bin",
        "a'(b)*!~,;:@$=.bin",
    ],
)
def test_odd_keys_are_signed_and_read_right(bucket: Bucket, front: FaultProxy, name: str) -> None:
    bucket.put(name, name.encode())
    assert read(bucket, bucket.uri(name)) == name.encode()
    (shard,) = bucket.storage.list_all(bucket.source)
    assert shard.uri == bucket.uri(name)
    assert all("Signature=" in seen.asked.headers["authorization"] for seen in front.seen)


def test_bucket_alone_and_slashes_at_the_end(bucket: Bucket) -> None:
    bucket.client.put_object(Bucket=bucket.bucket, Key="top.safetensors", Body=b"x")
    bucket.put("m.safetensors", b"x")
    for source in (f"s3://{bucket.bucket}", f"s3://{bucket.bucket}/"):
        (shard,) = bucket.storage.list_shards(source, None, None)
        assert shard.uri == f"s3://{bucket.bucket}/top.safetensors"
    (shard,) = bucket.storage.list_shards(bucket.source + "/", None, None)
    assert shard.uri == bucket.uri("m.safetensors")


def test_more_than_a_thousand_objects_and_directory_markers() -> None:
    store = MemoryStore()
    names = [f"m-{number}.safetensors" for number in range(1205)]
    for name in names:
        store.put(f"/bucket/models/{name}", name.encode())
    store.put("/bucket/models/", b"")
    store.put("/bucket/models/sub/", b"")
    store.put("/bucket/models/sub/deep.txt", b"x")
    for store.page_keys, store.knows_second_version in ((1000, True), (100, False)):
        with fault_proxy(store) as proxy:
            storage = S3Storage({**KEYS, "AWS_ENDPOINT_URL": proxy.url})
            shards = storage.list_shards("s3://bucket/models", None, None)
            assert [shard.uri for shard in shards] == [f"s3://bucket/models/{n}" for n in names]
            found = storage.list_all("s3://bucket/models")
            assert [shard.uri for shard in found][-1] == "s3://bucket/models/sub/deep.txt"
            assert len(found) == 1206


def test_a_store_that_ignores_conditions_is_seen_through() -> None:
    store = MemoryStore()
    store.honours_conditions = False
    store.put("/bucket/a.bin", content(100))
    with fault_proxy(store) as proxy:
        storage = S3Storage({**KEYS, "AWS_ENDPOINT_URL": proxy.url})
        (shard,) = storage.list_shards("s3://bucket/a.bin", None, None)
        reader = storage.open(shard)
        store.put("/bucket/a.bin", content(100, seed=2))
        target = bytearray(50)
        with pytest.raises(SourceChanged, match="expected ETag"):
            reader.readinto(memoryview(target), 0)
        assert target == bytes(50), "bytes of another object were handed out"


def test_what_is_not_there_is_told_apart(bucket: Bucket) -> None:
    with pytest.raises(BucketNotFound, match=r"NoSuchBucket.*check the bucket's name"):
        bucket.storage.list_shards("s3://no-such-bucket/m", None, None)
    with pytest.raises(
        SourceNotFound, match=r"neither an object nor a prefix.*NoSuchKey.*check the key"
    ):
        bucket.storage.list_shards(bucket.uri("none.bin"), None, None)
    with pytest.raises(SourceNotFound, match="nothing lies under it"):
        bucket.storage.list_shards(f"s3://{bucket.bucket}", None, None)
    with pytest.raises(ConfigError, match="names twice"):
        bucket.storage.list_shards(bucket.source, None, ["a", bucket.uri("a")])
    with pytest.raises(ConfigError, match="is empty"):
        bucket.storage.list_shards(bucket.source, None, [])


def test_versions_of_the_same_bytes_are_the_same_content(bucket: Bucket) -> None:
    bucket.client.put_bucket_versioning(
        Bucket=bucket.bucket, VersioningConfiguration={"Status": "Enabled"}
    )
    identities = set()
    for _ in range(2):
        for name in ("a.safetensors", "b.safetensors"):
            bucket.put(name, b"the same bytes")
        listed = bucket.storage.list_shards(bucket.source, None, None)
        looked = bucket.storage.look_at([shard.uri for shard in listed])
        assert not all(shard.looked_at for shard in listed)
        assert [shard.identity for shard in listed] == [shard.identity for shard in looked]
        identities |= {shard.identity for shard in listed}
    assert len(identities) == 1
    bucket.put("a.safetensors", b"some other byte")
    assert bucket.storage.look_at([bucket.uri("a.safetensors")])[0].identity not in identities
    bucket.put("a.safetensors", b"the same bytes")
    assert read(bucket, bucket.uri("a.safetensors")) == b"the same bytes"

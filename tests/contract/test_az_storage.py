"""Azure: the contract against Azurite over real HTTP, and the properties that only
containers have.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from azure.storage.blob import ContainerClient
from tests.contract.storage_contract import KIB, StorageContract, content
from tests.support.azurite import ACCOUNT, Azurite, azurite, azurite_missing
from tests.support.fault_proxy import Fault, FaultProxy, Seen, fault_proxy, ranges
from tests.support.object_backends import Forward

from streamer_client.contract.errors import (
    ConfigError,
    SourceForbidden,
    SourceNotFound,
)
from streamer_client.storage.az.environment import AzEnvironment
from streamer_client.storage.az.storage import AzStorage
from streamer_client.storage.http.engine import Waits

_numbers = itertools.count()

NO_WAITS = Waits(sleep=lambda _seconds: None)


class Container:
    """A prefix of a container as a backend."""

    def __init__(self, front: FaultProxy, server: Azurite, client: ContainerClient) -> None:
        self.front = front
        self.server = server
        self.client = client
        self.source = f"az://{client.container_name}/models/tiny"
        self.storage = AzStorage(self.environment(), NO_WAITS)

    def environment(self) -> dict[str, str]:
        """The environment of a caller that has the account's key."""
        return AzEnvironment(
            self.source,
            {
                "AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT,
                "AZURE_STORAGE_ACCOUNT_KEY": self.server.key,
                "AZURE_STORAGE_ENDPOINT": self.server.endpoint(self.front.url),
            },
        ).resolved()

    def put(self, name: str, data: bytes) -> None:
        self.client.upload_blob(f"models/tiny/{name}", data, overwrite=True)

    def remove(self, name: str) -> None:
        self.client.delete_blob(f"models/tiny/{name}")

    def uri(self, name: str) -> str:
        return f"{self.source}/{name}"


@pytest.fixture(scope="module")
def server() -> Iterator[Azurite]:
    missing = azurite_missing()
    if missing:
        pytest.skip(missing)
    with azurite() as running:
        yield running


@pytest.fixture
def front(server: Azurite) -> Iterator[FaultProxy]:
    """A proxy that records the requests that the storage sends to Azurite, and fails none."""
    with fault_proxy(Forward(server.url)) as proxy:
        yield proxy


@pytest.fixture
def container(front: FaultProxy, server: Azurite) -> Iterator[Container]:
    with server.service() as service:
        client = service.create_container(f"container-{next(_numbers)}")
        yield Container(front, server, client)


class TestAzure(StorageContract):
    @pytest.fixture
    def backend(self, container: Container) -> Container:
        return container


def blob_gets(front: FaultProxy) -> list[Seen]:
    return [seen for seen in front.gets() if "comp=list" not in seen.asked.target]


def read(container: Container, uri: str) -> bytes:
    (shard,) = container.storage.list_shards(uri, None, None)
    target = bytearray(shard.size_bytes)
    reader = container.storage.open(shard)
    reader.readinto(memoryview(target), 0)
    reader.close()
    return bytes(target)


def test_one_ranged_get_for_each_block_and_none_twice(container: Container) -> None:
    data = content(1000 * KIB)
    container.put("a.safetensors", data)
    (shard,) = container.storage.list_shards(container.source, None, None)
    reader = container.storage.open(shard)
    target = bytearray(len(data))
    blocks = [(start, min(start + 64 * KIB, len(data))) for start in range(0, len(data), 64 * KIB)]

    def fetch(block: tuple[int, int]) -> int:
        start, stop = block
        return reader.readinto(memoryview(target)[start:stop], start)

    with ThreadPoolExecutor(4) as threads:
        counts = list(threads.map(fetch, blocks))
    assert target == data
    assert counts == [stop - start for start, stop in blocks]
    gets = blob_gets(container.front)
    assert sorted(ranges(gets)) == blocks
    assert {seen.asked.headers["if-match"] for seen in gets} == {shard.identity.rpartition(" ")[2]}
    methods = [seen.asked.method for seen in container.front.seen]
    assert methods.count("HEAD") == 1  # the listing sends it; If-Match proves the content of reads
    assert reader.retries == 0
    reader.close()


@pytest.mark.parametrize("fault", Fault, ids=lambda fault: fault.name)
def test_faults_pass_and_only_what_is_missing_is_asked_for_again(
    container: Container, fault: Fault
) -> None:
    data = content(200 * KIB)
    container.put("a.safetensors", data)
    environment = container.environment() | {"RUNAI_STREAMER_S3_REQUEST_TIMEOUT_MS": "300"}
    storage = AzStorage(environment, NO_WAITS)
    (shard,) = storage.list_shards(container.uri("a.safetensors"), None, None)
    reader = storage.open(shard)
    container.front.script = [fault, None]
    target = bytearray(len(data))
    reader.readinto(memoryview(target), 0)
    assert target == data
    assert reader.retries == 1
    first, second = ranges(blob_gets(container.front))
    refused = isinstance(fault.value, int)
    assert (first, second) == ((0, len(data)), (0 if refused else len(data) // 2, len(data)))
    reader.close()


@pytest.mark.parametrize(
    "name",
    [
        "sp ace+plus.bin",
        "per%25cent%.bin",
        "ümläut-模型.bin",
        "q?x=1&y#z.bin",
        "a'(b)*!~,;:@$=.bin",
    ],
)
def test_odd_names_are_read_right(container: Container, name: str) -> None:
    container.put(name, name.encode())
    assert read(container, container.uri(name)) == name.encode()
    (shard,) = container.storage.list_all(container.source)
    assert shard.uri == container.uri(name)
    assert all("sig=" in seen.asked.target for seen in container.front.seen)


def test_more_than_one_page_and_directory_markers(container: Container) -> None:
    names = [f"m-{number}.safetensors" for number in range(13)]
    for name in names:
        container.put(name, name.encode())
    container.put("stub", b"")
    container.client.get_blob_client("models/tiny/stub").set_blob_metadata({"hdi_isfolder": "true"})
    container.put("stub/deep.txt", b"x")
    storage = AzStorage(container.environment(), page_keys=3)
    shards = storage.list_shards(container.source, None, None)
    assert [shard.uri for shard in shards] == [container.uri(name) for name in names]
    found = [shard.uri for shard in storage.list_all(container.source)]
    assert found == [container.uri(name) for name in [*names, "stub/deep.txt"]]
    pages = [seen for seen in container.front.seen if "comp=list" in seen.asked.target]
    assert len(pages) >= 10


def test_container_alone_and_slashes_at_the_end(container: Container) -> None:
    container.client.upload_blob("top.safetensors", b"x")
    container.put("m.safetensors", b"x")
    name = container.client.container_name
    for source in (f"az://{name}", f"az://{name}/", f"AZ://{name}"):
        (shard,) = container.storage.list_shards(source, None, None)
        assert shard.uri == f"az://{name}/top.safetensors"
    (shard,) = container.storage.list_shards(container.source + "/", None, None)
    assert shard.uri == container.uri("m.safetensors")


def test_what_is_not_there_is_told_apart(container: Container) -> None:
    # The environment holds a signature for one container, so the store answers a request for
    # another container with 403.
    account = container.environment()
    with pytest.raises(SourceNotFound, match=r"BlobNotFound.*x-ms-request-id.*check the blob"):
        container.storage.list_shards(container.uri("none.bin"), None, None)
    with pytest.raises(SourceNotFound, match="nothing lies under it"):
        container.storage.list_shards(f"az://{container.client.container_name}", None, None)
    with pytest.raises(SourceForbidden, match=r"HTTP 403 Auth.*http://127.0.0.1"):
        AzStorage(account).list_shards("az://no-such-container", None, None)
    with pytest.raises(ConfigError, match="names twice"):
        container.storage.list_shards(container.source, None, ["a", container.uri("a")])
    with pytest.raises(ConfigError, match="is empty"):
        container.storage.list_shards(container.source, None, [])

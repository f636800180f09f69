"""Objects for which a store gives no lasting proof are read anew for each load of a real daemon."""

from __future__ import annotations

from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path

import pytest

from tests.support.checkpoints import write_model
from tests.support.daemon import DaemonProcess
from tests.support.fault_proxy import FaultProxy, fault_proxy
from tests.support.object_backends import MemoryStore
from tests.support.raw_client import RawClient
from tests.support.waiting import eventually

SOURCE = "s3://models/llama"
BLOCKS = 3


@pytest.fixture
def store() -> MemoryStore:
    """A store that tells no ETag and no date."""
    store = MemoryStore()
    store.sends_etag = False
    store.extra = {"Last-Modified": ""}
    store.honours_conditions = False
    return store


@pytest.fixture
def proxy(store: MemoryStore) -> Iterator[FaultProxy]:
    with fault_proxy(store) as running:
        yield running


@pytest.fixture
def data(store: MemoryStore, tmp_path: Path) -> bytes:
    (path,) = write_model(tmp_path / "llama", shards=1, blocks=BLOCKS)
    store.put("/models/llama/one.safetensors", path.read_bytes())
    return path.read_bytes()


def environment(proxy: FaultProxy) -> dict[str, str]:
    return {"AWS_ENDPOINT_URL": proxy.url, "RUNAI_STREAMER_S3_UNSIGNED": "1"}


def reads(proxy: FaultProxy) -> int:
    return len(proxy.gets(".safetensors"))


@pytest.mark.parametrize("kind", ["nothing", "a date of just now", "a weak tag"])
def test_each_open_reads_anew_and_nothing_stays(
    streamerd: DaemonProcess, proxy: FaultProxy, store: MemoryStore, data: bytes, kind: str
) -> None:
    if kind == "a date of just now":
        store.extra = {"Last-Modified": formatdate(usegmt=True)}
    elif kind == "a weak tag":
        store.extra |= {"ETag": 'W/"x"'}
    with RawClient(streamerd.socket) as one, RawClient(streamerd.socket) as two:
        first = one.open(SOURCE, hold=True, environment=environment(proxy))
        assert first.read_all() == [data]
        # The object gets another content of the same length, and the store describes it as before.
        changed = bytes(len(data))
        store.objects["/models/llama/one.safetensors"] = changed
        second = two.open(SOURCE, hold=True, environment=environment(proxy))
        assert second.read_all() == [changed]
        assert reads(proxy) == 2 * BLOCKS
        assert first.read_all() == [data]  # the first load keeps the bytes that it leases
        first.close()
        second.close()
        eventually(lambda: streamerd.segments() == [])
    assert streamerd.shards() == {}
    assert streamerd.allocated_bytes() == 0


def test_a_date_of_long_ago_is_good_for_the_next_load(
    streamerd: DaemonProcess, proxy: FaultProxy, store: MemoryStore, data: bytes
) -> None:
    store.extra = {"Last-Modified": formatdate(0, usegmt=True)}
    for _ in range(2):
        with RawClient(streamerd.socket) as client:
            load = client.open(SOURCE, hold=True, environment=environment(proxy))
            assert load.read_all() == [data]
    assert reads(proxy) == BLOCKS
    gets = proxy.gets(".safetensors")
    assert all(
        seen.asked.headers["if-unmodified-since"] == formatdate(0, usegmt=True) for seen in gets
    )

"""The requests that a load sends to an object store, one by one, through a real daemon."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamer_client.contract import messages as m
from tests.support.checkpoints import write_model
from tests.support.daemon import BLOCK, DaemonProcess, Daemons
from tests.support.fault_proxy import Asked, FaultProxy, fault_proxy
from tests.support.object_backends import MemoryStore
from tests.support.raw_client import RawClient
from tests.support.rounds import Rounds

SOURCE = "s3://models/llama"


@pytest.fixture
def streamerd(daemon_maker: Daemons) -> DaemonProcess:
    return daemon_maker.start(f"--memory-limit={512 * BLOCK}")


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def proxy(store: MemoryStore) -> Iterator[FaultProxy]:
    with fault_proxy(store) as running:
        yield running


def environment(proxy: FaultProxy, key: str = "") -> dict[str, str]:
    if not key:
        return {"AWS_ENDPOINT_URL": proxy.url, "RUNAI_STREAMER_S3_UNSIGNED": "1"}
    secret = {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": "of-nothing"}
    return {"AWS_ENDPOINT_URL": proxy.url, **secret}


def put_model(store: MemoryStore, folder: Path, count: int) -> list[bytes]:
    """Put a checkpoint of this many objects of one block each into the store."""
    paths = write_model(folder / "llama", shards=count, blocks=1)
    for path in paths:
        store.put(f"/models/llama/{path.name}", path.read_bytes())
    return [path.read_bytes() for path in paths]


def what(asked: Asked) -> str:
    if "list-type" in asked.target:
        return "listing"
    return "GET" if asked.range else asked.method


def kinds(proxy: FaultProxy) -> Counter[str]:
    return Counter(what(seen.asked) for seen in proxy.seen)


@pytest.mark.parametrize("count", [1, 40, 200])
def test_a_listing_a_head_and_one_get_a_block(
    streamerd: DaemonProcess, proxy: FaultProxy, store: MemoryStore, tmp_path: Path, count: int
) -> None:
    files = put_model(store, tmp_path, count)
    with RawClient(streamerd.socket) as one, RawClient(streamerd.socket) as two:
        load = one.open(SOURCE, hold=True, environment=environment(proxy))
        assert load.read_all() == files
        assert kinds(proxy) == {"listing": 1, "HEAD": 1, "GET": count}
        again = two.open(SOURCE, hold=True, environment=environment(proxy))
        assert again.read_all() == files
        assert kinds(proxy) == {"listing": 2, "HEAD": 1, "GET": count}
        # For other credentials, the daemon asks about each object whether they may read it.
        other = two.open(SOURCE, hold=True, environment=environment(proxy, "OTHER"))
        assert other.read_all() == files
    assert kinds(proxy) == {"listing": 3, "HEAD": 1 + count, "GET": count}


def test_many_named_files_are_listed(
    streamerd: DaemonProcess, proxy: FaultProxy, store: MemoryStore, tmp_path: Path
) -> None:
    files = put_model(store, tmp_path, 40)
    names = tuple(f"llama-{number}.safetensors" for number in range(40))
    named = tuple(f"{SOURCE}/{name}" for name in names)
    with RawClient(streamerd.socket) as client:
        load = client.open(SOURCE, files=named, hold=True, environment=environment(proxy))
        assert load.read_all() == files
    assert kinds(proxy) == {"listing": 1, "HEAD": 1, "GET": 40}


def test_three_delays_until_the_first_byte(
    streamerd: DaemonProcess, store: MemoryStore, tmp_path: Path
) -> None:
    files = put_model(store, tmp_path, 40)
    rounds = Rounds(store)
    with fault_proxy(rounds) as proxy, RawClient(streamerd.socket) as client:
        request = m.Open(client.next_id(), 1, SOURCE, environment=environment(proxy))
        client.send(request)
        passed = [{what(asked) for asked in rounds.release()} for _ in range(3)]
        rounds.let_all_pass()
        assert passed == [{"listing"}, {"HEAD"}, {"GET"}]
        assert len(client.expect(m.Opened).shards) == len(files)


def test_two_delays_where_the_buckets_listing_was_right_before(
    streamerd: DaemonProcess, store: MemoryStore, tmp_path: Path
) -> None:
    rounds = Rounds(store)
    files = put_model(store, tmp_path, 2)
    for name, data in enumerate(files):
        store.put(f"/models/before/{name}.safetensors", data)
    rounds.let_all_pass()
    with fault_proxy(rounds) as proxy, RawClient(streamerd.socket) as client:
        before = client.open("s3://models/before", environment=environment(proxy))
        assert before.read_all() == files
        rounds.hold_again()
        client.send(m.Open(client.next_id(), 9, SOURCE, environment=environment(proxy)))
        passed = [{what(asked) for asked in rounds.release()} for _ in range(2)]
        rounds.let_all_pass()
        assert passed == [{"listing"}, {"GET"}]
        assert len(client.expect(m.Opened).shards) == len(files)


def test_what_a_read_finds_of_a_listing_counts_for_all_workers(
    daemon_maker: Daemons, proxy: FaultProxy, store: MemoryStore, tmp_path: Path
) -> None:
    """One object alone is listed with another ETag than it has, and is not the one looked at."""
    daemon = daemon_maker.start(f"--memory-limit={512 * BLOCK}", "--workers=4")
    files = put_model(store, tmp_path, 12)
    honest = store.listed_etag
    lies = "/models/llama/llama-11.safetensors"

    def listed(path: str, data: bytes) -> str:
        return '"another"' if path == lies else honest(path, data)

    store.listed_etag = listed
    with RawClient(daemon.socket) as client:
        load = client.open(SOURCE, want="none", hold=True, environment=environment(proxy))
        load.want((11, 0, 1))
        assert "lists other ETags than it serves" in client.expect(m.ShardFailed).message
        load.close()
        for _ in range(3):
            load = client.open(SOURCE, hold=True, environment=environment(proxy))
            assert load.read_all() == files
            load.close()


@pytest.mark.parametrize("tells", ["no ETags", "other ETags"])
def test_where_the_listing_does_not_tell_each_object_is_looked_at_once(
    streamerd: DaemonProcess, proxy: FaultProxy, store: MemoryStore, tmp_path: Path, tells: str
) -> None:
    files = put_model(store, tmp_path, 20)
    store.listed_etag = lambda _path, _data: "" if tells == "no ETags" else '"another"'
    with RawClient(streamerd.socket) as client:
        load = client.open(SOURCE, hold=True, environment=environment(proxy))
        assert load.read_all() == files
    assert kinds(proxy) == {"listing": 1, "HEAD": 20, "GET": 20}


@pytest.mark.parametrize("honours", [True, False], ids=["refuses", "ignores-conditions"])
def test_an_object_that_changes_after_the_listing_is_told_and_never_given_out(
    streamerd: DaemonProcess, proxy: FaultProxy, store: MemoryStore, tmp_path: Path, honours: bool
) -> None:
    files = put_model(store, tmp_path, 3)
    store.honours_conditions = honours
    with RawClient(streamerd.socket) as client:
        load = client.open(SOURCE, want="none", hold=True, environment=environment(proxy))
        changed = bytes(reversed(files[2]))
        store.put("/models/llama/llama-2.safetensors", changed)
        load.want((2, 0, 1))
        failed = client.expect(m.ShardFailed)
        assert failed.code == "source-changed"
        assert "listed as" in failed.message
        assert "open the checkpoint again" in failed.message
        again = client.open(SOURCE, hold=True, environment=environment(proxy))
        assert again.read_all() == [*files[:2], changed]

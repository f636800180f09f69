"""Loads from a store of which most answers are wrong, slow or cut off."""

from __future__ import annotations

import logging
import random
import re
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

import pytest

from streamer_client.contract.errors import SourceError, StreamerError
from streamer_client.contract.messages import Failed, ShardFailed
from streamer_client.storage.http.engine import Waits
from streamer_client.storage.s3.storage import S3Storage
from tests.contract.storage_contract import content
from tests.support.daemon import DaemonProcess, Daemons
from tests.support.fault_proxy import Fault, FaultProxy, fault_proxy
from tests.support.object_backends import MemoryStore
from tests.support.raw_client import RawClient
from tests.support.raw_load import RawLoad

LOADS: Final = 200
DAEMON_LOADS: Final = 100
RATE: Final = 0.1
SIZE: Final = 200_003
BLOCK: Final = 64 << 10
HUSH: Final = "hush-this-is-the-secret"
HUSH_TOO: Final = "hush-this-is-the-token"

GIVEN_UP: Final = re.compile(
    r"given up after (10 attempts in [\d.]+ s"
    r"|[1-9]\d+ attempts in [\d.]+ s, 10 of them since bytes last came): "
)
"""The error after ten attempts in a row that brought nothing; if there were attempts before these,
they ended with a part of the block."""

Block = tuple[str, int]
"""An object's path and the end of a block: the request for the rest of a range has the same two."""


@pytest.fixture
def store() -> MemoryStore:
    store = MemoryStore()
    for place in range(4):
        store.put(f"/bucket/m/m-{place}.safetensors", content(SIZE, seed=place))
    return store


@pytest.fixture
def proxy(store: MemoryStore) -> Iterator[FaultProxy]:
    with fault_proxy(store) as proxy:
        yield proxy


def s3_storage(proxy: FaultProxy, seed: int = 0, *, timeout_ms: int = 100) -> S3Storage:
    """A storage that makes many attempts in little time: it does not pause between them, and soon
    gives a silent server up.
    """
    environment = {
        "AWS_ACCESS_KEY_ID": "TESTKEYID",
        "AWS_SECRET_ACCESS_KEY": HUSH,
        "AWS_SESSION_TOKEN": HUSH_TOO,
        "AWS_ENDPOINT_URL": proxy.url,
        "RUNAI_STREAMER_S3_REQUEST_TIMEOUT_MS": str(timeout_ms),
    }
    chance = random.Random(seed)
    return S3Storage(environment, Waits(sleep=lambda _seconds: None, chance=chance.random))


@dataclass
class Outcome:
    """The outcome of one load."""

    error: StreamerError | None = None
    retries: int = 0
    blocks: set[Block] = field(default_factory=set)


def load(storage: S3Storage, store: MemoryStore, place: int) -> Outcome:
    """List, open and read one shard in blocks, and compare every byte that is handed out."""
    path = f"/bucket/m/m-{place}.safetensors"
    outcome = Outcome()
    try:
        (shard,) = storage.list_shards("s3://bucket/m", f"m-{place}.*", None)
        reader = storage.open(shard)
    except StreamerError as error:
        outcome.error = error
        return outcome
    target = bytearray(SIZE)
    for start in range(0, SIZE, BLOCK):
        stop = min(start + BLOCK, SIZE)
        outcome.blocks.add((path, stop))
        try:
            reader.readinto(memoryview(target)[start:stop], start)
        except StreamerError as error:
            outcome.error = error
            break
        assert target[start:stop] == store.objects[path][start:stop]
    outcome.retries = reader.retries
    reader.close()
    return outcome


def test_two_hundred_loads_end_right_or_with_the_right_error(
    proxy: FaultProxy, store: MemoryStore, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    proxy.rates = dict.fromkeys(Fault, RATE)
    with ThreadPoolExecutor(4) as threads:
        outcomes = list(
            threads.map(
                lambda place: load(s3_storage(proxy, place), store, place % 4), range(LOADS)
            )
        )
    seen = proxy.gets()
    # Faults of every kind happened, about as often as they should.
    faults = Counter(entry.fault for entry in proxy.seen)
    assert set(faults) == {*Fault, None}
    assert min(faults.values()) > len(proxy.seen) * RATE / 2
    # Each error says that the load gave up, after how many attempts, and over which object.
    failed = [outcome.error for outcome in outcomes if outcome.error]
    assert len(failed) < LOADS / 4, "retrying hardly helps"
    for error in failed:
        assert type(error) is SourceError
        assert GIVEN_UP.search(str(error))
        assert str(error).startswith("s3://bucket/m")
    # No block was read more often than its retries explain.
    blocks = sum(len(outcome.blocks) for outcome in outcomes)
    assert len([entry for entry in seen if entry.asked.range != (0, 1)]) <= blocks + sum(
        outcome.retries for outcome in outcomes
    )
    assert caplog.records, "retries are told in the log"
    told = caplog.text + "".join(map(str, failed))
    assert HUSH not in told
    assert HUSH_TOO not in told


def test_what_came_before_the_connection_broke_is_not_asked_for_again(
    proxy: FaultProxy, store: MemoryStore
) -> None:
    storage = s3_storage(proxy, timeout_ms=1000)
    (shard,) = storage.list_shards("s3://bucket/m", "m-0*", None)
    reader = storage.open(shard)
    proxy.script = [Fault.SHORT, Fault.STALL, Fault.SLOW_DOWN, Fault.SHORT, None]
    target, parts = bytearray(8000), bytearray()
    reader.readinto(memoryview(target), 1000, parts.extend)
    assert target == store.objects["/bucket/m/m-0.safetensors"][1000:9000]
    assert parts == target, "a checksum over the parts is the block's"
    asked = [entry.asked.range for entry in proxy.gets()]
    assert asked == [(1000, 9000), (5000, 9000), (7000, 9000), (7000, 9000), (8000, 9000)]
    assert reader.retries == 4
    etags = {entry.asked.headers["if-match"] for entry in proxy.gets()}
    assert etags == {shard.identity.rpartition(" ")[2]}
    reader.close()


@pytest.mark.parametrize("fault", Fault)
def test_each_fault_alone_passes(proxy: FaultProxy, store: MemoryStore, fault: Fault) -> None:
    storage = s3_storage(proxy, timeout_ms=200 if fault is Fault.STALL else 20_000)
    (shard,) = storage.list_shards("s3://bucket/m", "m-1*", None)
    reader = storage.open(shard)
    proxy.script = [fault]
    target = bytearray(SIZE)
    reader.readinto(memoryview(target), 0)
    assert target == store.objects["/bucket/m/m-1.safetensors"]
    assert reader.retries == 1
    reader.close()


@pytest.mark.parametrize("fault", Fault)
def test_each_fault_that_stays_is_told_with_what_to_do(proxy: FaultProxy, fault: Fault) -> None:
    storage = s3_storage(proxy, timeout_ms=200 if fault is Fault.STALL else 20_000)
    (shard,) = storage.list_shards("s3://bucket/m", "m-1*", None)
    reader = storage.open(shard)
    proxy.script = [fault] * 40
    with pytest.raises(SourceError, match="given up after ") as caught:
        reader.readinto(memoryview(bytearray(1)), 0)
    assert type(caught.value) is SourceError
    text = str(caught.value)
    assert text.startswith("s3://bucket/m/m-1.safetensors: ")
    assert proxy.url in text
    if isinstance(fault.value, int):
        assert f"HTTP {fault.value}" in text
        assert "x-amz-request-id FAULT" in text
    assert len(proxy.gets()) == 10
    reader.close()


def test_a_connection_that_died_while_idle_is_no_failure(
    proxy: FaultProxy, store: MemoryStore
) -> None:
    """The server closes the connection after its answer, and the next request finds that out."""
    storage = s3_storage(proxy, timeout_ms=20_000)
    (shard,) = storage.list_shards("s3://bucket/m", "m-2*", None)
    reader = storage.open(shard)
    target = bytearray(SIZE)
    store.extra = {"Connection": "close"}
    for start in range(0, SIZE, BLOCK):
        stop = min(start + BLOCK, SIZE)
        reader.readinto(memoryview(target)[start:stop], start)
    assert target == store.objects["/bucket/m/m-2.safetensors"]
    assert reader.retries == 0
    assert len(proxy.gets()) == 4
    reader.close()


# --- through a real daemon


def daemon_load(daemon: DaemonProcess, environment: dict[str, str], source: str) -> bytes | str:
    """One load by a client of its own: its shard's bytes, or the error with which it ended."""
    with RawClient(daemon.socket) as client:
        load = RawLoad(client, source, hold=True, environment=environment)
        answer = client.receive()
        if isinstance(answer, Failed):
            return f"{answer.code}: {answer.message}"
        client.put_back(answer)
        load.opened()
        while load.blocks - load.granted:
            message = client.listen()
            if isinstance(message, ShardFailed):
                return f"{message.code}: {message.message}"
        return b"".join(load.bytes_of(*block) for block in sorted(load.blocks))


def test_loads_through_a_daemon(
    daemon_maker: Daemons, proxy: FaultProxy, store: MemoryStore
) -> None:
    daemon = daemon_maker.start(f"--memory-limit={4 * DAEMON_LOADS * BLOCK}")
    sources = [f"model-{place}" for place in range(DAEMON_LOADS)]
    for place, source in enumerate(sources):
        store.put(f"/bucket/{source}/m.safetensors", content(SIZE, seed=place))
    # Faults come half as often as above, because here the waits between attempts are real.
    proxy.rates = dict.fromkeys(Fault, RATE / 2)
    environment = {
        "AWS_ACCESS_KEY_ID": "TESTKEYID",
        "AWS_SECRET_ACCESS_KEY": HUSH,
        "AWS_SESSION_TOKEN": HUSH_TOO,
        "AWS_ENDPOINT_URL": proxy.url,
        "RUNAI_STREAMER_S3_REQUEST_TIMEOUT_MS": "200",
    }

    def load_one(source: str) -> bytes | str:
        return daemon_load(daemon, environment, f"s3://bucket/{source}")

    with ThreadPoolExecutor(8) as threads:
        outcomes = list(threads.map(load_one, sources))
    right = 0
    for source, outcome in zip(sources, outcomes, strict=True):
        if isinstance(outcome, str):
            assert outcome.startswith(f"source: s3://bucket/{source}")
            assert GIVEN_UP.search(outcome)
        else:
            assert outcome == store.objects[f"/bucket/{source}/m.safetensors"]
            right += 1
    assert right > DAEMON_LOADS * 3 / 4
    gets = [entry for entry in proxy.gets() if entry.asked.range != (0, 1)]
    blocks = DAEMON_LOADS * -(-SIZE // BLOCK)
    assert len(gets) <= blocks + daemon.totals()["retries"]
    told = f"{daemon.log}{daemon.status()}{outcomes}"
    assert HUSH not in told
    assert HUSH_TOO not in told

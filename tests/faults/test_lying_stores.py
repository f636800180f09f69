"""Stores whose answers contradict each other, and odd keys: a load ends with a typed error or the
right bytes.

The daemon and the clients are real. Afterwards the same daemon loads an honest checkpoint, so that
a rest of an answer that was too long is not taken for the beginning of the next one.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pytest
import torch
from safetensors.torch import load_file

from streamer_client.client import Client, daemon_client
from streamer_client.contract.errors import (
    ConfigError,
    SourceChanged,
    SourceError,
    StreamerError,
)
from streamer_client.contract.limits import MAX_SHARDS
from tests.support.checkpoints import write_blocks
from tests.support.daemon import DaemonProcess
from tests.support.fault_proxy import FaultProxy, fault_proxy
from tests.support.long_listing import ENDLESS, LongListing
from tests.support.lying_store import LIES, LyingStore
from tests.support.object_backends import MemoryStore
from tests.support.waiting import eventually

Tensors = dict[str, torch.Tensor]

HARMLESS: Final = frozenset({"body-long", "length-long", "length-short"})
"""Lies after which the requested bytes can still be right, because Content-Range is."""

ODD_KEYS: Final = (
    "a b+c%2Fd",
    "tab\there",
    "line\nbreak",
    "bell\x07and\x1bescape",
    "../../../etc",
    "a/../b",
    "a//b",
    "\u202eright-to-left",
    "\U0001f999",
    "k" * 5000,
)


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    """A file of two blocks and a half."""
    return write_blocks(tmp_path / "model.safetensors", 2, (64 << 10) + 13_000)


@pytest.fixture
def proxy(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    with fault_proxy(LyingStore(store, LIES)) as proxy:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "TESTKEYID")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        monkeypatch.setenv("RUNAI_STREAMER_S3_MAX_RETRIES", "2")
        monkeypatch.setenv("RUNAI_STREAMER_S3_REQUEST_TIMEOUT_MS", "500")
        yield proxy


def load(client: Client, source: str | list[str]) -> Tensors | StreamerError:
    """Every tensor of a checkpoint, or the error with which the load ended."""
    try:
        with client.open(source) as checkpoint:
            return {name: tensor.clone() for name, tensor in checkpoint.tensors()}
    except StreamerError as error:
        return error


def same(found: Tensors | StreamerError, expected: Tensors) -> bool:
    return (
        isinstance(found, dict)
        and found.keys() == expected.keys()
        and all(tensor.equal(expected[name]) for name, tensor in found.items())
    )


def check_honest(client: Client, daemon: DaemonProcess, store: MemoryStore, shard: Path) -> None:
    """Check that the daemon still loads, and that nothing is left of the loads that failed."""
    store.put("/bucket/honest/model.safetensors", shard.read_bytes())
    assert same(load(client, "s3://bucket/honest"), load_file(shard))
    eventually(lambda: not any(found["leases"] for found in daemon.shards().values()))
    eventually(lambda: not daemon.reads_under_way())
    assert daemon.totals()["worker_restarts"] == 0
    assert "event=defect" not in daemon.log


@pytest.mark.usefixtures("proxy")
def test_a_store_that_contradicts_itself_is_told_or_does_no_harm(
    streamerd: DaemonProcess, store: MemoryStore, shard: Path
) -> None:
    for name in LIES:
        store.put(f"/bucket/{name}/model.safetensors", shard.read_bytes())
    with daemon_client(str(streamerd.socket)) as client:
        with ThreadPoolExecutor(8) as threads:
            outcomes = dict(
                zip(
                    LIES,
                    threads.map(lambda name: load(client, f"s3://bucket/{name}"), LIES),
                    strict=True,
                )
            )
        for name, outcome in outcomes.items():
            if isinstance(outcome, StreamerError):
                kind = ConfigError if name == "told-huge" else SourceError
                assert isinstance(outcome, kind), name
                assert f"s3://bucket/{name}/model.safetensors" in str(outcome)
            else:
                assert name in HARMLESS, "an error was due"
                assert same(outcome, load_file(shard)), name
        assert isinstance(outcomes["another-total"], SourceChanged)
        check_honest(client, streamerd, store, shard)


@pytest.mark.usefixtures("proxy")
def test_odd_keys_are_loaded_as_they_are(
    streamerd: DaemonProcess, store: MemoryStore, shard: Path
) -> None:
    for key in ODD_KEYS:
        store.put(f"/bucket/odd/{key}.safetensors", shard.read_bytes())
    with daemon_client(str(streamerd.socket)) as client:
        for key in ODD_KEYS:
            outcome = load(client, [f"s3://bucket/odd/{key}.safetensors"])
            assert same(outcome, load_file(shard)), (key[:40], outcome)
        check_honest(client, streamerd, store, shard)
    assert all(line.isprintable() for line in streamerd.log.splitlines())


@pytest.mark.parametrize(
    ("others", "keys", "right"),
    [
        (100_000, ("model.safetensors",), True),
        (0, tuple(f"{place}.safetensors" for place in range(MAX_SHARDS + 1)), False),
        (0, ("%FF%FE.safetensors",), False),
        (0, ("%0Anew%00line%1B%5B2J.safetensors",), False),
        (0, ("../../else.safetensors", "model.safetensors"), True),
        (ENDLESS, (), False),
    ],
    ids=["one of 100,000", "more than a load may have", "no text", "control", "up", "endless"],
)
def test_whatever_is_listed_the_load_ends(
    streamerd: DaemonProcess,
    proxy: FaultProxy,
    store: MemoryStore,
    shard: Path,
    others: int,
    keys: tuple[str, ...],
    right: bool,
) -> None:
    store.put("/bucket/long/model.safetensors", shard.read_bytes())
    proxy.backend = LongListing(store, "long", others, keys)
    with daemon_client(str(streamerd.socket)) as client:
        outcome = load(client, "s3://bucket/long")
        if right:
            assert same(outcome, load_file(shard))
        else:
            assert isinstance(outcome, StreamerError)
            assert str(outcome).isprintable()
        proxy.backend = store
        check_honest(client, streamerd, store, shard)

"""The slabs' memory stays within the limit, as the kernel counts it, whatever is loaded."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from streamer_client.client import daemon_client
from tests.support.checkpoints import write_model
from tests.support.daemon import BLOCK, DaemonProcess
from tests.support.raw_client import RawClient
from tests.support.raw_load import RawLoad
from tests.support.waiting import eventually

LIMIT = 16 * BLOCK


class Sampler:
    """Measures the slabs' memory again and again while something else runs."""

    def __init__(self, daemon: DaemonProcess) -> None:
        self._daemon = daemon
        self.samples = 0
        self.most_bytes = 0

    def sample(self) -> None:
        self.most_bytes = max(self.most_bytes, self._daemon.allocated_bytes())
        self.samples += 1


@contextmanager
def sampled(daemon: DaemonProcess) -> Iterator[Sampler]:
    """Measure in a thread for as long as the block runs."""
    sampler, done = Sampler(daemon), threading.Event()

    def run() -> None:
        while not done.wait(0.002):
            sampler.sample()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield sampler
    finally:
        done.set()
        thread.join()


@pytest.fixture
def eightfold(tmp_path: Path) -> list[bytes]:
    """Write a checkpoint of 8 times the limit at `big`; returns its files' bytes."""
    return [path.read_bytes() for path in write_model(tmp_path / "big", shards=4, blocks=32)]


def test_eight_times_the_limit_by_one_reader(
    streamerd: DaemonProcess, tmp_path: Path, eightfold: list[bytes]
) -> None:
    sampler = Sampler(streamerd)
    with RawClient(streamerd.socket) as client:
        load = client.open(str(tmp_path / "big"), hold=True)
        assert not load.held
        assert load.read_all(between=sampler.sample) == eightfold
    assert 2 * BLOCK < sampler.most_bytes <= LIMIT
    assert streamerd.totals()["source_read_bytes"] == 128 * BLOCK


def test_eight_times_the_limit_through_the_client(
    streamerd: DaemonProcess, tmp_path: Path, eightfold: list[bytes]
) -> None:
    with (
        sampled(streamerd) as sampler,
        daemon_client(streamerd.socket) as client,
        client.open(tmp_path / "big") as checkpoint,
    ):
        found = {name: bytes(tensor.numpy()) for name, tensor in checkpoint.tensors()}
        catalog = checkpoint.catalog
    files = dict(zip(checkpoint.uris, eightfold, strict=True))
    assert set(found) == set(catalog)
    for name, entry in catalog.items():
        assert found[name] == files[entry.uri][entry.start : entry.stop]
    assert sampler.samples > 5
    assert sampler.most_bytes <= LIMIT


def test_two_ranks_and_a_late_one(
    streamerd: DaemonProcess, tmp_path: Path, eightfold: list[bytes]
) -> None:
    half_way = threading.Event()

    def rank(*, late: bool) -> list[bytes]:
        if late:
            assert half_way.wait(60)
        with RawClient(streamerd.socket) as client:
            load = client.open(str(tmp_path / "big"))

            def look() -> None:
                if len(load.read) > 64:
                    half_way.set()

            return load.read_all(between=look)

    with sampled(streamerd) as sampler, ThreadPoolExecutor(3) as pool:
        ranks = [pool.submit(rank, late=late) for late in (False, False, True)]
        for future in ranks:
            assert future.result() == eightfold
    assert sampler.most_bytes <= LIMIT
    # Ranks that load at the same time share most reads. Blocks that the late rank missed are read
    # again.
    assert 128 * BLOCK < streamerd.totals()["source_read_bytes"] < 3 * 128 * BLOCK


def test_eviction_takes_the_least_recently_used_model(
    streamerd: DaemonProcess, tmp_path: Path
) -> None:
    for seed, name in enumerate("abc"):
        write_model(tmp_path / name, shards=1, blocks=6, seed=10 * seed)

    def load(name: str) -> None:
        with RawClient(streamerd.socket) as client:
            client.open(str(tmp_path / name), hold=True).await_grants(6)

    def resident() -> dict[str, int]:
        return {
            Path(uri).parent.name: row["resident_bytes"] // BLOCK
            for uri, row in streamerd.shards().items()
        }

    load("a")
    load("b")
    assert resident() == {"a": 6, "b": 6}
    load("a")
    load("c")  # this load needs two more blocks, and b gives them, since a was used after b
    assert resident()["a"] == resident()["c"] == 6
    assert resident()["b"] < 6
    before = streamerd.totals()["source_read_bytes"]
    load("a")
    load("c")
    assert streamerd.totals()["source_read_bytes"] == before
    load("b")
    assert resident()["b"] == 6
    assert streamerd.totals()["evicted_bytes"] > 0


def test_a_waiting_load_is_told_why_and_goes_on(streamerd: DaemonProcess, tmp_path: Path) -> None:
    (big, small) = (write_model(tmp_path / name, shards=1, blocks=14) for name in ("big", "small"))
    with RawClient(streamerd.socket) as holder, RawClient(streamerd.socket, "late") as client:
        held = holder.open(str(tmp_path / "big"), hold=True)
        assert held.held
        held.await_grants(14)
        window = client.open(str(tmp_path / "small"))
        waiting = RawLoad(client, str(tmp_path / "small"))
        report = waiting.waiting()
        assert (report.load, report.needs_bytes) == (waiting.number, 2 * BLOCK)
        assert (report.available_bytes, report.limit_bytes) == (0, LIMIT)
        (row,) = streamerd.status()["waiting"]
        assert (row["label"], row["needs_bytes"]) == ("late", 2 * BLOCK)
        held.close()
        waiting.opened().await_grants(2)
        assert streamerd.status()["waiting"] == []
        window.close()
    assert big[0].stat().st_size == small[0].stat().st_size


def test_a_waiting_load_may_leave(streamerd: DaemonProcess, tmp_path: Path) -> None:
    for name in "abc":
        write_model(tmp_path / name, shards=1, blocks=14)
    with RawClient(streamerd.socket) as holder, RawClient(streamerd.socket) as other:
        held = holder.open(str(tmp_path / "a"), hold=True)
        held.await_grants(14)
        window = other.open(str(tmp_path / "b"))
        with RawClient(streamerd.socket) as gone:
            RawLoad(gone, str(tmp_path / "c")).waiting()
        eventually(lambda: not streamerd.status()["waiting"])
        held.close()
        window.close()
        holder.open(str(tmp_path / "c"), hold=True).await_grants(14)


@pytest.mark.parametrize(
    ("memory_limit", "most_blocks"), [(-1, 12), (0, 2), (1, 2), (5 * BLOCK, 5), (2**40, 12)]
)
def test_what_one_load_may_hold_at_once(
    streamerd: DaemonProcess, tmp_path: Path, memory_limit: int, most_blocks: int
) -> None:
    (file,) = write_model(tmp_path / "m", shards=1, blocks=40)
    most = 0
    with RawClient(streamerd.socket) as client:
        load = client.open(str(tmp_path / "m"), memory_limit=memory_limit, hold=True)
        assert not load.held
        load.await_grants(most_blocks)

        def count() -> None:
            nonlocal most
            leases = [row for row in streamerd.shards().values() if row["leases"]]
            assert leases
            most = max(most, len(load.granted))

        count()
        assert load.read_all(between=count) == [file.read_bytes()]
    assert most <= most_blocks


def test_a_load_with_a_limit_below_its_size_is_not_held(
    streamerd: DaemonProcess, tmp_path: Path
) -> None:
    write_model(tmp_path / "m", shards=1, blocks=6)
    with RawClient(streamerd.socket) as client:
        assert not client.open(str(tmp_path / "m"), hold=True, memory_limit=5 * BLOCK).held
        assert client.open(str(tmp_path / "m"), hold=True, memory_limit=6 * BLOCK).held


def test_the_client_reports_waiting_and_goes_on(
    streamerd: DaemonProcess, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a", "b", "c"):
        write_model(tmp_path / name, shards=1, blocks=14)
    with RawClient(streamerd.socket) as holder:
        held = holder.open(str(tmp_path / "a"), hold=True)
        held.await_grants(14)
        window = holder.open(str(tmp_path / "b"))

        def give_way() -> None:
            eventually(lambda: streamerd.status()["waiting"])
            held.close()
            window.close()

        thread = threading.Thread(target=give_way)
        thread.start()
        with (
            daemon_client(streamerd.socket) as client,
            client.open(tmp_path / "c") as checkpoint,
        ):
            assert len(dict(checkpoint.tensors())) == len(checkpoint.catalog)
        thread.join()
    assert f"needs_bytes={2 * BLOCK} available_bytes=0 limit_bytes={LIMIT}" in caplog.text

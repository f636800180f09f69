"""Prefetch, pin and evict; what a lease prevents; and the status that shows all of it."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec
import pytest

from streamer_client.client import Client, daemon_client
from streamer_client.contract import messages as m
from streamer_client.contract.errors import MemoryLimitError, RequestRefused, SourceNotFound
from streamer_client.contract.sizes import format_size
from tests.support.checkpoints import write_model
from tests.support.daemon import BLOCK, DaemonProcess
from tests.support.raw_client import RawClient
from tests.support.raw_load import RawLoad
from tests.support.waiting import eventually

LIMIT = 16 * BLOCK


# --- the promise of INTERFACE, key by key -------------------------------------------------------


class Memory(msgspec.Struct, forbid_unknown_fields=True):
    limit_bytes: int
    used_bytes: int
    leased_bytes: int
    pinned_bytes: int
    committed_bytes: int
    """This name is not among those that INTERFACE promises; it was added later."""
    lingering_bytes: int


class Lease(msgspec.Struct, forbid_unknown_fields=True):
    pid: int
    label: str
    consumed_bytes: int


class ShardRow(msgspec.Struct, forbid_unknown_fields=True):
    id: str
    uri: str
    names: list[str]
    """Other names under which the shard was opened."""
    slab: str | None
    """None for a shard that failed earlier, and where no slab could be made."""
    size_bytes: int
    resident_bytes: int
    state: Literal["queued", "streaming", "resident", "partial", "failed"]
    pinned: bool
    leases: list[Lease]
    bytes_per_s: float
    eta_s: float | None
    retries: int
    error: str | None


class SourceRow(msgspec.Struct, forbid_unknown_fields=True):
    uri: str
    shards: list[ShardRow]


class WaitingRow(msgspec.Struct, forbid_unknown_fields=True):
    pid: int
    label: str
    needs_bytes: int


class Totals(msgspec.Struct, forbid_unknown_fields=True):
    source_read_bytes: int
    source_requests: int
    served_bytes: int
    block_hits: int
    block_misses: int
    evicted_bytes: int
    retries: int
    errors: int
    worker_restarts: int
    source_device_bytes: int
    """This name is not among those that INTERFACE promises; it was added later."""
    source_proof_bytes: int
    lost_threads: int
    retired_workers: int
    copied_bytes: int
    copied_page_cache_bytes: int
    copied_direct_bytes: int


class StatusBody(msgspec.Struct, forbid_unknown_fields=True):
    version: str
    pid: int
    uptime_s: float
    socket: str
    instance: str
    memory: Memory
    sources: list[SourceRow]
    waiting: list[WaitingRow]
    totals: Totals
    workers: list[int]
    """This name is not among those that INTERFACE promises; it was added later."""
    bandwidth_limit_bytes_per_s: int
    fleet: None
    """None, since there is no fleet here; `tests/integration/fleet` has daemons in one."""


def status(daemon: DaemonProcess) -> StatusBody:
    return msgspec.convert(daemon.status(), StatusBody)


def test_status_of_every_state(streamerd: DaemonProcess, tmp_path: Path) -> None:
    for name, blocks in (("held", 6), ("window", 40), ("gone", 2)):
        write_model(tmp_path / name, shards=1, blocks=blocks)
    with RawClient(streamerd.socket, "rank 0") as one, RawClient(streamerd.socket, "rank 1") as two:
        one.open(str(tmp_path / "held"), hold=True).await_grants(6)
        load = two.open(str(tmp_path / "window"))
        load.await_grants(3)
        load.consume([(0, 0)])
        failing = two.open(str(tmp_path / "gone"), want="none")
        os.truncate(tmp_path / "gone" / "gone-0.safetensors", BLOCK)
        failing.want((0, 0, 2))
        failed = two.expect(m.ShardFailed)
        body = status(streamerd)
    assert (body.pid, body.socket) == (streamerd.pid, streamerd.socket)
    assert body.instance == streamerd.instance
    assert [source.uri for source in body.sources] == [
        str(tmp_path / name) for name in ("gone", "held", "window")
    ]
    (gone,), (held,), (window,) = (source.shards for source in body.sources)
    assert (held.state, held.resident_bytes, held.pinned) == ("resident", 6 * BLOCK, False)
    assert [(lease.pid, lease.label) for lease in held.leases] == [(os.getpid(), "rank 0")]
    assert window.state == "streaming"
    assert [lease.consumed_bytes for lease in window.leases] == [BLOCK]
    assert (gone.state, gone.error) == ("failed", failed.message)
    assert body.memory.limit_bytes == LIMIT
    assert body.memory.used_bytes >= body.memory.leased_bytes >= 6 * BLOCK
    assert body.totals.errors == 1
    assert {held.slab, window.slab} <= {f"/{name}" for name in streamerd.segments()}


def test_status_of_an_idle_daemon_and_a_failure_of_the_past(
    streamerd: DaemonProcess, tmp_path: Path
) -> None:
    assert status(streamerd).sources == []
    write_model(tmp_path / "m", shards=1, blocks=2)
    with RawClient(streamerd.socket) as client:
        load = client.open(str(tmp_path / "m"), want="none")
        os.truncate(tmp_path / "m" / "m-0.safetensors", BLOCK)
        load.want((0, 0, 2))
        client.expect(m.ShardFailed)
    eventually(lambda: not streamerd.segments())
    (source,) = status(streamerd).sources
    assert source.shards[0].state == "failed"
    assert "changed since the load began" in str(source.shards[0].error)


# --- prefetch -----------------------------------------------------------------------------------


@pytest.fixture
def client(streamerd: DaemonProcess) -> Iterator[Client]:
    with daemon_client(streamerd.socket, label="test") as opened:
        yield opened


def resident(daemon: DaemonProcess) -> dict[str, int]:
    return {Path(uri).name: row["resident_bytes"] // BLOCK for uri, row in daemon.shards().items()}


def test_prefetch_goes_on_when_whoever_asked_has_left(
    streamerd: DaemonProcess, tmp_path: Path
) -> None:
    write_model(tmp_path / "m", shards=2, blocks=6)
    with RawClient(streamerd.socket) as client:
        accepted = client.prefetch(str(tmp_path / "m"))
    assert accepted.total_bytes == 12 * BLOCK
    assert sorted(accepted.ids) == sorted(row["id"] for row in streamerd.shards().values())
    eventually(lambda: resident(streamerd) == {"m-0.safetensors": 6, "m-1.safetensors": 6})
    eventually(lambda: not any(row["leases"] for row in streamerd.shards().values()))
    with RawClient(streamerd.socket) as reader:
        load = reader.open(str(tmp_path / "m"), hold=True)
        assert load.answer.resident_bytes == 12 * BLOCK
        assert len(load.granted) == 12
    assert streamerd.totals()["source_read_bytes"] == 12 * BLOCK


def test_prefetch_of_a_pattern_and_of_the_first_bytes(
    streamerd: DaemonProcess, client: Client, tmp_path: Path
) -> None:
    write_model(tmp_path / "m", shards=3, blocks=4)
    ids, _ = client.admin.prefetch(str(tmp_path / "m"), "m-2.safetensors")
    ids_of = {row["id"]: Path(uri).name for uri, row in streamerd.shards().items()}
    assert [ids_of[one] for one in ids] == ["m-2.safetensors"]
    eventually(lambda: resident(streamerd) == {"m-2.safetensors": 4})
    client.admin.prefetch(str(tmp_path / "m"), limit_bytes=6 * BLOCK)
    eventually(
        lambda: (
            resident(streamerd)
            == {"m-2.safetensors": 4, "m-0.safetensors": 4, "m-1.safetensors": 2}
        )
    )


def test_prefetch_of_what_cannot_fit_is_refused_with_the_numbers(
    streamerd: DaemonProcess, client: Client, tmp_path: Path
) -> None:
    write_model(tmp_path / "m", shards=2, blocks=8)
    with pytest.raises(MemoryLimitError) as caught:
        client.admin.prefetch(str(tmp_path / "m"), pin=True)
    assert format_size(18 * BLOCK) in str(caught.value)
    assert format_size(LIMIT) in str(caught.value)
    assert "raise memory_limit" in str(caught.value)
    assert streamerd.shards() == {}
    assert streamerd.segments() == []
    client.admin.prefetch(str(tmp_path / "m"), "m-0.safetensors")
    eventually(lambda: resident(streamerd) == {"m-0.safetensors": 8})


def test_prefetch_of_what_is_not_there(client: Client, tmp_path: Path) -> None:
    with pytest.raises(SourceNotFound, match="nowhere"):
        client.admin.prefetch(str(tmp_path / "nowhere"))


# --- pin, unpin, evict --------------------------------------------------------------------------


def test_a_pinned_source_stays_whatever_comes(
    streamerd: DaemonProcess, client: Client, tmp_path: Path
) -> None:
    write_model(tmp_path / "kept", shards=1, blocks=6)
    (big,) = write_model(tmp_path / "big", shards=1, blocks=40)
    kept = str(tmp_path / "kept")
    client.admin.prefetch(kept, pin=True)
    eventually(lambda: resident(streamerd) == {"kept-0.safetensors": 6})
    with RawClient(streamerd.socket) as reader:
        load = reader.open(str(tmp_path / "big"))
        assert load.read_all() == [big.read_bytes()]
    assert resident(streamerd)["kept-0.safetensors"] == 6
    assert streamerd.status()["memory"]["pinned_bytes"] == 6 * BLOCK
    with pytest.raises(RequestRefused, match=r"kept-0\.safetensors is pinned.*unpin"):
        client.admin.evict(kept)
    client.admin.evict()
    assert list(resident(streamerd)) == ["kept-0.safetensors"]
    client.admin.unpin(kept)
    assert streamerd.status()["memory"]["pinned_bytes"] == 0
    client.admin.evict(kept)
    eventually(lambda: not streamerd.segments())


def test_pinning_more_than_fits_is_refused(
    streamerd: DaemonProcess, client: Client, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        write_model(tmp_path / name, shards=1, blocks=7)
        client.admin.prefetch(str(tmp_path / name))
    eventually(lambda: resident(streamerd) == {"a-0.safetensors": 7, "b-0.safetensors": 7})
    client.admin.pin(str(tmp_path / "a"))
    client.admin.pin(str(tmp_path / "a"))
    client.admin.pin(str(tmp_path / "b"))
    write_model(tmp_path / "c", shards=1, blocks=3)
    with RawClient(streamerd.socket) as reader:
        reader.open(str(tmp_path / "c")).await_grants(2)
    with pytest.raises(MemoryLimitError, match="unpin something else"):
        client.admin.pin(str(tmp_path / "c"))
    with pytest.raises(RequestRefused, match="not pinned"):
        client.admin.unpin(str(tmp_path / "c"))


@pytest.mark.parametrize("verb", ["pin", "unpin", "evict"])
def test_a_source_that_is_not_in_memory_is_named(client: Client, tmp_path: Path, verb: str) -> None:
    with pytest.raises(SourceNotFound, match=f"{tmp_path} is not in memory.*streamerctl status"):
        getattr(client.admin, verb)(str(tmp_path))


@pytest.mark.parametrize("form", ["{}/", "{}/../m", "file://{}", "{}/m-0.safetensors"])
def test_a_source_may_be_named_as_for_open(
    streamerd: DaemonProcess, client: Client, tmp_path: Path, form: str
) -> None:
    write_model(tmp_path / "m", shards=1, blocks=2)
    source = form.format(tmp_path / "m")
    client.admin.prefetch(source, pin=True)
    eventually(lambda: resident(streamerd) == {"m-0.safetensors": 2})
    client.admin.unpin(source)
    client.admin.evict(source)
    eventually(lambda: not streamerd.segments())


def test_a_leased_shard_is_refused_with_its_holders(
    streamerd: DaemonProcess, client: Client, tmp_path: Path
) -> None:
    write_model(tmp_path / "m", shards=1, blocks=4)
    with RawClient(streamerd.socket, "rank 3") as reader:
        reader.open(str(tmp_path / "m"), hold=True).await_grants(4)
        with pytest.raises(RequestRefused) as caught:
            client.admin.evict(str(tmp_path / "m"))
        assert f"in use by pid {os.getpid()} (rank 3)" in str(caught.value)
        assert "m-0.safetensors" in str(caught.value)
        assert resident(streamerd) == {"m-0.safetensors": 4}
    client.admin.evict(str(tmp_path / "m"))
    eventually(lambda: not streamerd.segments())


def test_evicting_and_opening_at_once(streamerd: DaemonProcess, tmp_path: Path) -> None:
    """A slab's end and the next opening of its source may fall into one turn of the daemon."""
    (file,) = write_model(tmp_path / "m", shards=1, blocks=1)
    with RawClient(streamerd.socket) as client:
        for _ in range(60):
            client.open(str(tmp_path / "m")).close()
            client.send(m.Evict(client.next_id()))
            load = RawLoad(client, str(tmp_path / "m"), hold=True)
            # The daemon answers the eviction once the memory is free or used again, which may be
            # before or after the opening.
            client.expect_also(m.Done)
            load.opened().await_grants(1)
            assert load.bytes_of(0, 0) == file.read_bytes()
            load.close()
    assert "Traceback" not in streamerd.log


def test_evicting_what_is_still_on_its_way(streamerd: DaemonProcess, tmp_path: Path) -> None:
    """Blocks that arrive after the eviction are released at once, and the answer waits for them."""
    write_model(tmp_path / "m", shards=1, blocks=8)
    (worker,) = streamerd.status()["workers"]
    with RawClient(streamerd.socket) as client:
        load = client.open(str(tmp_path / "m"), want="none")
        os.kill(worker, signal.SIGSTOP)
        load.want((0, 0, 8))
        eventually(lambda: streamerd.reads_under_way() >= 4)
        load.close()
        client.send(m.Evict(1, (str(tmp_path / "m"),)))
        eventually(lambda: not any(row["leases"] for row in streamerd.shards().values()))
        os.kill(worker, signal.SIGCONT)
        client.expect(m.Done)
    assert streamerd.segments() == []
    assert streamerd.status()["memory"]["used_bytes"] == 0


# --- leases by views ----------------------------------------------------------------------------


def test_views_hold_their_shard_and_nothing_else(streamerd: DaemonProcess, tmp_path: Path) -> None:
    write_model(tmp_path / "m", shards=3, blocks=2)

    def leased() -> set[str]:
        rows = streamerd.shards().items()
        return {Path(uri).name for uri, row in rows if row["leases"]}

    with daemon_client(streamerd.socket) as client:
        checkpoint = client.open(tmp_path / "m")
        views = dict(checkpoint.tensors())
        copies = {name: view.clone() for name, view in views.items()}
        assert len(leased()) == 3
        checkpoint.close()
        assert len(leased()) == 3
        for name in [name for name in views if not name.startswith("m-1")]:
            del views[name]
        gc.collect()
        eventually(lambda: leased() == {"m-1.safetensors"})
        client.admin.evict()
        eventually(lambda: resident(streamerd) == {"m-1.safetensors": 2})
    # The client is closed, but the views that it handed out stay right while they are referenced.
    for name, view in views.items():
        assert view.equal(copies[name])
        view.zero_()  # writing to a view does not change the shared bytes
    assert leased() == {"m-1.safetensors"}
    views.clear()
    del view
    gc.collect()
    eventually(lambda: not leased())
    with daemon_client(streamerd.socket) as client, client.open(tmp_path / "m") as checkpoint:
        for name, tensor in checkpoint.tensors():
            assert tensor.equal(copies[name])
        del tensor


def test_the_lease_of_a_checkpoint_that_was_only_opened_ends(
    streamerd: DaemonProcess, tmp_path: Path
) -> None:
    write_model(tmp_path / "m", shards=2, blocks=2)
    with daemon_client(streamerd.socket) as client:
        client.open(tmp_path / "m")
        gc.collect()
        eventually(lambda: not any(row["leases"] for row in streamerd.shards().values()))

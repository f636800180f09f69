"""A client or worker leaves, dies, stops or takes things away, and the loads of the others go on.

Promises shown: a read that fails through one caller's descriptor is repeated through another's; a
promised prefetch outlives its connection; a stopped daemon's leases end with its client; a daemon
touches only what is its own.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from streamer_client.client import daemon_client, direct_client
from tests.support.checkpoints import write_blocks
from tests.support.daemon import BLOCK, DaemonProcess, Daemons
from tests.support.visitor import Visitor, digests_of
from tests.support.waiting import eventually
from tests.support.worlds import (
    GROUP,
    MEMBER,
    OTHER_MEMBER,
    SERVICE,
    as_member,
    as_user,
    leased_bytes,
    needs_root,
    shards_of,
    shared_folder,
    status_of,
    totals_of,
)

BLOCKS = 40
"""More than twice the limit of the daemons here, so that most of it is read after the test has
acted."""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "m").mkdir()
    return write_blocks(tmp_path / "m" / "m.safetensors", BLOCKS)


def begin(client: Visitor, daemon: DaemonProcess, model: Path, **options: object) -> None:
    """Open a load, and read two blocks of it."""
    client.ask("connect", socket=daemon.socket)
    client.ask("open", source=str(model), hold=False, **options)
    client.ask("read", most=2)


def finish(client: Visitor, model: Path, mode: str = "daemon") -> None:
    found = client.ask("read")
    assert (found["mode"], found["digests"]) == (mode, digests_of([model]))


def resident_of(daemon: DaemonProcess) -> list[int]:
    return [row["resident_bytes"] for row in shards_of(daemon.socket)]


# --- clients --------------------------------------------------------------------------------------


def test_the_client_whose_descriptors_are_read_through_is_killed(
    streamerd: DaemonProcess, model: Path
) -> None:
    with Visitor() as first, Visitor() as other:
        begin(first, streamerd, model)
        begin(other, streamerd, model)
        first.kill()
        finish(other, model)
    eventually(lambda: leased_bytes(streamerd.socket) == 0)


@needs_root()
def test_the_user_whose_descriptors_are_read_through_leaves(
    daemon_maker: Daemons, tmp_path: Path
) -> None:
    with shared_folder(SERVICE, GROUP) as run, shared_folder(MEMBER) as folder:
        model = write_blocks(folder / "m.safetensors", BLOCKS)
        before = as_user(SERVICE, GROUP)
        path = run / "s"
        daemon = daemon_maker.make("--socket-mode=0660", socket_path=path, before=before).start()
        with Visitor(as_member()) as first, Visitor(as_member(OTHER_MEMBER)) as other:
            begin(first, daemon, model)
            begin(other, daemon, model)
            first.ask("close")
            first.ask("leave")
            finish(other, model)
        daemon.end()
    assert not list(tmp_path.iterdir())


def test_a_prefetch_whose_client_leaves_at_once_is_done(
    streamerd: DaemonProcess, tmp_path: Path
) -> None:
    model = write_blocks(tmp_path / "m.safetensors", 8)
    with Visitor() as client:
        client.ask("connect", socket=streamerd.socket)
        client.ask("prefetch", source=str(model))
        client.kill()
    eventually(
        lambda: [row["resident_bytes"] for row in shards_of(streamerd.socket)] == [8 * BLOCK]
    )
    model.unlink()  # all blocks are in memory, so nothing reads the file any more


def test_a_prefetched_file_that_is_removed_at_once_is_brought_in_all_the_same(
    streamerd: DaemonProcess, tmp_path: Path
) -> None:
    model = write_blocks(tmp_path / "m.safetensors", 8)
    with Visitor() as client:
        client.ask("connect", socket=streamerd.socket)
        client.ask("prefetch", source=str(model))
        model.unlink()
    eventually(
        lambda: [row["resident_bytes"] for row in shards_of(streamerd.socket)] == [8 * BLOCK]
    )


def test_what_was_read_from_the_page_cache_is_brought_in_after_its_client_is_gone(
    streamerd: DaemonProcess, tmp_path: Path
) -> None:
    model = write_blocks(tmp_path / "m.safetensors", 8)
    model.read_bytes()
    targets = targets_for(model)
    with (
        daemon_client(streamerd.socket) as client,
        client.open(str(model), page_cache=True) as checkpoint,
    ):
        checkpoint.load_into(targets)
        if checkpoint.stats.mode != "page-cache":
            pytest.skip("nobody tells here what the page cache holds")
    eventually(
        lambda: [row["resident_bytes"] for row in shards_of(streamerd.socket)] == [8 * BLOCK]
    )


def targets_for(model: Path) -> dict[str, torch.Tensor]:
    """A target for each tensor of a file."""
    with direct_client() as client, client.open(str(model)) as checkpoint:
        return {name: torch.empty_like(tensor) for name, tensor in checkpoint.tensors()}


# --- processes of the daemon ----------------------------------------------------------------------


def test_a_worker_that_has_the_descriptors_is_killed(streamerd: DaemonProcess, model: Path) -> None:
    """The worker that replaces it is lent the descriptors again."""
    with Visitor() as first, Visitor() as other:
        begin(first, streamerd, model)
        begin(other, streamerd, model)
        for pid in status_of(streamerd.socket)["workers"]:
            os.kill(pid, signal.SIGKILL)
        # Both read at once, as neither waits for the other's window.
        for client in (first, other):
            client.begin("read")
        for client in (first, other):
            found = client.answer()
            assert (found["mode"], found["digests"]) == ("daemon", digests_of([model]))
    assert totals_of(streamerd.socket)["worker_restarts"] == 1


def test_a_daemon_that_is_killed_and_started_again_reads_on_through_what_clients_kept(
    streamerd: DaemonProcess, model: Path
) -> None:
    """That works also if the file has no name any more: clients hand the same descriptors over
    again.
    """
    digests = digests_of([model])
    with Visitor() as first, Visitor() as other:
        for client in (first, other):
            begin(client, streamerd, model)
        model.unlink()
        streamerd.kill()
        streamerd.start()
        for client in (first, other):
            client.begin("read")
        for client in (first, other):
            found = client.answer()
            assert (found["mode"], found["digests"]) == ("daemon", digests)
    assert totals_of(streamerd.socket)["source_read_bytes"] > 0


def test_a_daemon_that_does_not_come_back_is_gone_on_without(
    streamerd: DaemonProcess, model: Path
) -> None:
    """The client reads on through the same descriptors, since the name leads elsewhere by now."""
    digests = digests_of([model])
    with Visitor() as client:
        client.ask("connect", socket=streamerd.socket, reconnect_s=0.2)
        client.ask("open", source=str(model), hold=False)
        client.ask("read", most=2)
        write_blocks(model.with_name("other"), BLOCKS, seed=7).rename(model)
        streamerd.kill()
        found = client.ask("read")
    assert (found["mode"], found["digests"]) == ("daemon+direct", digests)


def test_the_leases_of_a_client_that_left_a_stopped_daemon_are_free_at_once(
    daemon_maker: Daemons, tmp_path: Path
) -> None:
    """The client goes on directly after three heartbeats, closes its connection, and lives on."""
    daemon = daemon_maker.start("--heartbeat-s=0.1", f"--memory-limit={64 * BLOCK}")
    model = write_blocks(tmp_path / "m.safetensors", BLOCKS)
    with Visitor() as client:
        client.ask("connect", socket=daemon.socket, reconnect_s=0.2)
        client.ask("open", source=str(model), hold=False, memory_limit=0)
        client.ask("read", most=2)
        assert leased_bytes(daemon.socket) > 0
        daemon.signal(signal.SIGSTOP)
        try:
            finish(client, model, "daemon+direct")
            client.ask("close")
        finally:
            daemon.signal(signal.SIGCONT)
        eventually(lambda: leased_bytes(daemon.socket) == 0, 2.0)
        assert client.load(daemon.socket, model)["mode"] == "daemon"


def test_a_stopped_daemon_holds_nothing_of_a_client_that_is_killed_meanwhile(
    daemon_maker: Daemons, tmp_path: Path
) -> None:
    daemon = daemon_maker.start("--heartbeat-s=60", f"--memory-limit={64 * BLOCK}")
    model = write_blocks(tmp_path / "m.safetensors", BLOCKS)
    with Visitor() as client:
        client.ask("connect", socket=daemon.socket)
        client.ask("open", source=str(model))
        client.ask("read", most=2)
        daemon.signal(signal.SIGSTOP)
        client.kill()
        daemon.signal(signal.SIGCONT)
    eventually(lambda: leased_bytes(daemon.socket) == 0, 2.0)


# --- names that others take away ------------------------------------------------------------------


def test_a_slab_whose_name_others_unlinked_serves_as_before(
    streamerd: DaemonProcess, tmp_path: Path
) -> None:
    model = write_blocks(tmp_path / "m.safetensors", 8)
    with Visitor() as running, Visitor() as client:
        client.load(streamerd.socket, model)
        running.ask("connect", socket=streamerd.socket)
        running.ask("open", source=str(model))
        for name in streamerd.segments():
            os.unlink(f"/dev/shm/{name}")
        found = client.load(streamerd.socket, model)
        assert (found["mode"], found["resident_bytes"]) == ("daemon", 8 * BLOCK)
        assert found["digests"] == running.ask("read")["digests"] == digests_of([model])


def test_another_object_under_a_slabs_name_is_neither_served_nor_removed(
    streamerd: DaemonProcess, tmp_path: Path
) -> None:
    model = write_blocks(tmp_path / "m.safetensors", 8)
    with Visitor() as client:
        client.load(streamerd.socket, model)
        (name,) = streamerd.segments()
        path = Path(f"/dev/shm/{name}")
        path.unlink()
        path.write_bytes(b"poison" * BLOCK)
        try:
            assert client.load(streamerd.socket, model)["digests"] == digests_of([model])
            client.ask("connect", socket=streamerd.socket)
            client.ask("evict", source=str(model))
            assert path.read_bytes()[:6] == b"poison"
        finally:
            path.unlink()


@pytest.fixture
def usurped(daemon_maker: Daemons, tmp_path: Path) -> Iterator[tuple[DaemonProcess, DaemonProcess]]:
    """A daemon whose runtime folder was removed, and another daemon that made the folder anew."""
    run = tmp_path / "run"
    first = daemon_maker.make(socket_path=run / "s")
    second = daemon_maker.make(socket_path=run / "s")
    for daemon in (first, second):
        daemon.log_path = tmp_path / f"{len(list(tmp_path.glob('*.log')))}.log"
        shutil.rmtree(run, ignore_errors=True)
        daemon.start()
    yield first, second
    second.end()
    # The instance of `first` is noted nowhere any more, so `end` finds its leftovers by the last
    # known instance.
    first.end()


def test_the_end_of_a_daemon_takes_nothing_of_the_one_that_came_after_it(
    usurped: tuple[DaemonProcess, DaemonProcess], tmp_path: Path
) -> None:
    first, second = usurped
    model = write_blocks(tmp_path / "m.safetensors", 8)
    with Visitor() as client:
        client.load(second.socket, model)
    slabs = second.segments()
    first.process.terminate()
    first.wait()
    assert second.segments() == slabs != []
    with Visitor() as client:
        found = client.load(second.socket, model)
    assert (found["resident_bytes"], found["digests"]) == (8 * BLOCK, digests_of([model]))

"""Each process of the system is killed or stopped in the middle of a load, and the load
is right.
"""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from streamer_client.client import daemon_client
from streamer_client.contract import messages as m
from tests.support.checkpoints import write_model
from tests.support.daemon import BLOCK, DaemonProcess, Daemons
from tests.support.loader import LoaderServer, digest
from tests.support.raw_client import RawClient
from tests.support.waiting import eventually

BIG = 64
"""The number of blocks of a checkpoint of four times the limit."""


def stored(files: list[Path]) -> str:
    from safetensors.torch import load_file

    return digest({n: bytes(t.numpy()) for f in files for n, t in load_file(f).items()})


def read(tensors: object) -> dict[str, bytes]:
    return {name: bytes(tensor.numpy()) for name, tensor in tensors}  # type: ignore[attr-defined]


# --- workers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2])
def test_kill_a_worker_that_is_reading(daemon_maker: Daemons, tmp_path: Path, workers: int) -> None:
    daemon = daemon_maker.start(f"--workers={workers}")
    files = write_model(tmp_path / "m", shards=2, blocks=BIG // 2)
    with RawClient(daemon.socket) as client:
        load = client.open(str(tmp_path / "m"), memory_limit=8 * BLOCK)
        load.await_grants(8)
        pids = daemon.status()["workers"]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        load.consume(set(load.granted))
        eventually(lambda: daemon.reads_under_way() >= 4)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        assert load.read_all() == [file.read_bytes() for file in files]
    totals = daemon.totals()
    assert totals["worker_restarts"] == workers
    assert totals["retries"] >= 4
    assert totals["errors"] == 0
    eventually(lambda: len(daemon.status()["workers"]) == workers)
    assert set(daemon.status()["workers"]).isdisjoint(pids)


def test_a_worker_that_is_killed_again_and_again(streamerd: DaemonProcess, tmp_path: Path) -> None:
    """Two workers in a row may die over the same blocks; after each the load goes on."""
    (file,) = write_model(tmp_path / "m", shards=1, blocks=20)
    with RawClient(streamerd.socket) as client:
        load = client.open(str(tmp_path / "m"), memory_limit=0)
        killed: list[int] = []

        def kill_one() -> None:
            pids = streamerd.status()["workers"]
            if len(killed) < 2 and pids and pids[0] not in killed:
                os.kill(pids[0], signal.SIGKILL)
                killed.append(pids[0])

        assert load.read_all(between=kill_one) == [file.read_bytes()]
    assert len(killed) == 2
    eventually(lambda: streamerd.totals()["worker_restarts"] == 2)


# --- clients ------------------------------------------------------------------------------------


@pytest.mark.parametrize("hold", [True, False])
def test_kill_a_client_in_the_middle(
    streamerd: DaemonProcess, loaders: LoaderServer, tmp_path: Path, hold: bool
) -> None:
    write_model(tmp_path / "m", shards=1, blocks=12 if hold else BIG)
    with loaders.start(
        streamerd.socket, str(tmp_path / "m"), hold=hold, stop_at_first=True, label="rank 0"
    ) as rank:
        rank.go_on()
        rank.await_line("first")
        (row,) = streamerd.shards().values()
        assert [(lease["pid"], lease["label"]) for lease in row["leases"]] == [(rank.pid, "rank 0")]
        rank.signal(signal.SIGKILL)
        rank.await_end()
    eventually(lambda: not any(row["leases"] for row in streamerd.shards().values()))
    assert streamerd.status()["memory"]["committed_bytes"] == 0
    with RawClient(streamerd.socket) as client:
        client.request(m.Evict(1), m.Done)
    eventually(lambda: not streamerd.segments())


def test_kill_a_client_that_waits_for_memory(
    streamerd: DaemonProcess, loaders: LoaderServer, tmp_path: Path
) -> None:
    for name in "abc":
        write_model(tmp_path / name, shards=1, blocks=14)
    with RawClient(streamerd.socket) as holder:
        holder.open(str(tmp_path / "a"), hold=True).await_grants(14)
        holder.open(str(tmp_path / "b"))
        with loaders.start(streamerd.socket, str(tmp_path / "c")) as rank:
            rank.go_on()
            eventually(lambda: streamerd.status()["waiting"])
            assert streamerd.status()["waiting"][0]["pid"] == rank.pid
            rank.signal(signal.SIGKILL)
        eventually(lambda: not streamerd.status()["waiting"])


def test_a_stopped_reader_holds_nobody_up_for_ever(
    daemon_maker: Daemons, loaders: LoaderServer, tmp_path: Path
) -> None:
    daemon = daemon_maker.start("--lag-s=0.5")
    files = write_model(tmp_path / "m", shards=2, blocks=BIG // 2)
    expected = stored(files)
    with loaders.start(
        daemon.socket, str(tmp_path / "m"), hold=False, memory_limit=0, stop_at_first=True
    ) as slow:
        slow.go_on()
        slow.await_line("first")
        slow.signal(signal.SIGSTOP)
        with RawClient(daemon.socket) as fast:
            load = fast.open(str(tmp_path / "m"))
            assert load.read_all() == [file.read_bytes() for file in files]
        slow.signal(signal.SIGCONT)
        slow.go_on()
        assert slow.result()["digest"] == expected


# --- the daemon ---------------------------------------------------------------------------------


@pytest.mark.parametrize("hold", [True, False])
def test_kill_the_daemon_and_the_load_ends_by_itself(
    streamerd: DaemonProcess, tmp_path: Path, hold: bool
) -> None:
    files = write_model(tmp_path / "m", shards=2, blocks=6 if hold else BIG // 2)
    expected = stored(files)
    with daemon_client(streamerd.socket, reconnect_s=0.2) as client:
        with client.open(tmp_path / "m", hold=hold, memory_limit=-1 if hold else 0) as checkpoint:
            tensors = checkpoint.tensors()
            found = [next(tensors)]
            streamerd.kill()
            found += list(tensors)
            assert digest(read(found)) == expected
            if not hold:
                assert checkpoint.stats.mode == "daemon+direct"
        leftovers = set(streamerd.segments())
        assert len(leftovers) == 2
        streamerd.start()
        # The names of the old slabs are gone, but the tensors that this process has stay readable.
        assert not leftovers & set(streamerd.segments())
        assert digest(read(found)) == expected
        with client.open(tmp_path / "m") as checkpoint:
            assert digest(read(checkpoint.tensors())) == expected
            assert checkpoint.stats.mode == "daemon"


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_restart_the_daemon_and_the_load_goes_on_with_the_new_one(
    streamerd: DaemonProcess, tmp_path: Path, how: str
) -> None:
    files = write_model(tmp_path / "m", shards=2, blocks=BIG // 2)
    with (
        daemon_client(streamerd.socket, reconnect_s=20) as client,
        client.open(tmp_path / "m", hold=False, memory_limit=0) as checkpoint,
    ):
        tensors = checkpoint.tensors()
        found = [next(tensors)]
        getattr(streamerd, how)()
        streamerd.start()
        found += list(tensors)
        assert digest(read(found)) == stored(files)
        assert checkpoint.stats.mode == "daemon"
    assert streamerd.totals()["source_read_bytes"] > 0
    eventually(lambda: not any(row["leases"] for row in streamerd.shards().values()))


def test_stop_the_daemon_while_clients_wait_for_memory(
    streamerd: DaemonProcess, tmp_path: Path
) -> None:
    for name in "abc":
        write_model(tmp_path / name, shards=1, blocks=14)
    (file,) = (tmp_path / "c").glob("*.safetensors")
    with RawClient(streamerd.socket) as holder:
        holder.open(str(tmp_path / "a"), hold=True).await_grants(14)
        holder.open(str(tmp_path / "b"))

        def stop_when_it_waits() -> None:
            eventually(lambda: streamerd.status()["waiting"])
            streamerd.stop()
            streamerd.start()

        thread = threading.Thread(target=stop_when_it_waits)
        thread.start()
        with (
            daemon_client(streamerd.socket, reconnect_s=20) as client,
            client.open(tmp_path / "c") as checkpoint,
        ):
            assert digest(read(checkpoint.tensors())) == stored([file])
        thread.join()
        holder.abandon()


def test_a_daemon_that_is_stopped_for_a_while(daemon_maker: Daemons, tmp_path: Path) -> None:
    """The daemon's clients take it for dead after three heartbeats, and end the load without it."""
    daemon = daemon_maker.start("--heartbeat-s=0.2")
    files = write_model(tmp_path / "m", shards=2, blocks=BIG // 2)
    with (
        daemon_client(daemon.socket, reconnect_s=0.2) as client,
        client.open(tmp_path / "m", hold=False, memory_limit=0) as checkpoint,
    ):
        tensors = checkpoint.tensors()
        found = [next(tensors)]
        daemon.signal(signal.SIGSTOP)
        try:
            found += list(tensors)
        finally:
            daemon.signal(signal.SIGCONT)
        assert digest(read(found)) == stored(files)

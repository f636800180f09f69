"""The daemon is restarted in the middle of loads: their clients go on, with the slabs
that it left.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from streamer_client.client import daemon_client
from tests.support.checkpoints import write_model
from tests.support.daemon import BLOCK, DaemonProcess, Daemons
from tests.support.loader import digest
from tests.support.raw_client import RawClient
from tests.support.waiting import eventually

End = Callable[[DaemonProcess], object]


def stored(files: list[Path]) -> str:
    from safetensors.torch import load_file

    return digest({n: bytes(t.numpy()) for f in files for n, t in load_file(f).items()})


def read(tensors: object) -> dict[str, bytes]:
    return {name: bytes(tensor.numpy()) for name, tensor in tensors}  # type: ignore[attr-defined]


def settled(daemon: DaemonProcess) -> bool:
    """Check that nobody leases anything, and that the daemon's account of memory is the
    kernel's.
    """
    leased = any(row["leases"] for row in daemon.shards().values())
    memory = daemon.status()["memory"]
    counted: int = daemon.allocated_bytes()
    return not leased and counted == memory["used_bytes"] <= memory["limit_bytes"]


@pytest.mark.parametrize("end", [DaemonProcess.stop, DaemonProcess.kill])
@pytest.mark.parametrize("hold", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_restarted_anywhere_in_a_load(
    daemon_maker: Daemons, tmp_path: Path, end: End, hold: bool, seed: int
) -> None:
    """Bytes that were handed out before stay right to the end, also when their room is needed."""
    chance = random.Random(seed)
    daemon = daemon_maker.start(f"--memory-limit={(100 if hold else 16) * BLOCK}", "--threads=1")
    files = write_model(tmp_path / "m", shards=3, blocks=30)
    other = write_model(tmp_path / "other", shards=1, blocks=120, seed=50)
    with (
        daemon_client(daemon.socket, reconnect_s=20) as client,
        client.open(tmp_path / "m", hold=hold) as checkpoint,
    ):
        tensors = checkpoint.tensors()
        found = [next(tensors) for _ in range(chance.randrange(1, 40))]
        end(daemon)
        daemon.start()
        found += [next(tensors) for _ in range(chance.randrange(1, 20))]
        with RawClient(daemon.socket) as greedy:
            assert greedy.open(str(tmp_path / "other")).read_all() == [other[0].read_bytes()]
        found += list(tensors)
        assert checkpoint.stats.mode == "daemon"
        assert digest(read(found)) == stored(files)
        found.clear()
    eventually(lambda: settled(daemon))


def test_a_stop_in_good_order_loses_no_block(daemon_maker: Daemons, tmp_path: Path) -> None:
    """The daemon's two lives together read each byte once."""
    daemon = daemon_maker.start(f"--memory-limit={100 * BLOCK}")
    files = write_model(tmp_path / "m", shards=2, blocks=40)
    with (
        daemon_client(daemon.socket, reconnect_s=20) as client,
        client.open(tmp_path / "m") as checkpoint,
    ):
        tensors = checkpoint.tensors()
        found = [next(tensors)]
        daemon.stop()
        kept_bytes = daemon.allocated_bytes()
        daemon.start()
        found += list(tensors)
        assert digest(read(found)) == stored(files)
        eventually(lambda: daemon.allocated_bytes() == 80 * BLOCK)
        # Blocks that were on their way when the daemon stopped are read again.
        assert daemon.totals()["source_read_bytes"] <= 80 * BLOCK - kept_bytes + 8 * BLOCK
        found.clear()


def test_views_outlive_restarts_that_nobody_tells_them_of(
    streamerd: DaemonProcess, tmp_path: Path
) -> None:
    """A client that only keeps views sends no request, so no daemon knows of it; none
    may harm it.
    """
    files = write_model(tmp_path / "m", shards=2, blocks=6)
    write_model(tmp_path / "other", shards=1, blocks=60, seed=50)
    with daemon_client(streamerd.socket) as client:
        with client.open(tmp_path / "m") as checkpoint:
            found = list(checkpoint.tensors())
        for _ in range(2):
            streamerd.stop()
            streamerd.start()
        with RawClient(streamerd.socket) as greedy:
            greedy.open(str(tmp_path / "other")).read_all()
        assert digest(read(found)) == stored(files)
        assert streamerd.totals()["evicted_bytes"] >= 12 * BLOCK
        assert streamerd.allocated_bytes() <= 16 * BLOCK  # this counts only slabs that have a name
        found.clear()

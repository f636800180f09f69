"""/dev/shm has less room than the memory limit says: loads wait, share, or fail with the remedy.

The daemon runs in a mount namespace of its own, with a /dev/shm of a megabyte and a half.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from streamer_client.contract.messages import ShardFailed
from tests.support.checkpoints import write_model
from tests.support.daemon import BLOCK, DaemonProcess, Daemons
from tests.support.raw_client import RawClient
from tests.support.raw_load import Block
from tests.support.waiting import eventually

MOUNT_BLOCKS = 24


def may_mount() -> bool:
    mounting = ["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", "/dev/shm"]
    return subprocess.run(mounting, capture_output=True, check=False).returncode == 0


pytestmark = pytest.mark.skipif(not may_mount(), reason="no right to mount in a new namespace")


class FullMount:
    """A daemon whose /dev/shm another program fills."""

    def __init__(self, maker: Daemons, free_blocks: int, *flags: str) -> None:
        filler_bytes = (MOUNT_BLOCKS - free_blocks) * BLOCK
        script = (
            f"mount -t tmpfs -o size={MOUNT_BLOCKS * BLOCK} tmpfs /dev/shm && "
            f"head -c {filler_bytes} /dev/zero > /dev/shm/filler && "
            'exec "$@"'
        )
        self.daemon: DaemonProcess = maker.start(
            *flags, before=("unshare", "-m", "sh", "-c", script, "sh")
        )

    @property
    def _shm(self) -> Path:
        return Path(f"/proc/{self.daemon.pid}/root/dev/shm")

    def make_room(self) -> None:
        os.unlink(self._shm / "filler")


def test_no_room_at_all_fails_with_the_remedy_and_the_next_load_is_served(
    daemon_maker: Daemons, tmp_path: Path
) -> None:
    full = FullMount(daemon_maker, 0, "--space-wait-s=0.3")
    (file,) = write_model(tmp_path / "m", shards=1, blocks=6)
    with RawClient(full.daemon.socket) as client:
        client.open(str(tmp_path / "m"))
        failed = client.expect(ShardFailed)
        assert failed.code == "memory-limit"
        assert "/dev/shm is full" in failed.message
        assert "enlarge it or lower memory_limit" in failed.message
        full.make_room()
        load = client.open(str(tmp_path / "m"), hold=True)
        load.await_grants(6)
        assert load.read_all() == [file.read_bytes()]
    assert full.daemon.totals()["worker_restarts"] == 0  # no worker was killed by SIGBUS


def test_a_load_waits_for_room_and_goes_on(daemon_maker: Daemons, tmp_path: Path) -> None:
    full = FullMount(daemon_maker, 1)
    write_model(tmp_path / "m", shards=1, blocks=6)
    with RawClient(full.daemon.socket) as client:
        load = client.open(str(tmp_path / "m"), hold=True)
        eventually(lambda: full.daemon.totals()["retries"] >= 2)
        full.make_room()
        load.await_grants(6)
    assert full.daemon.totals()["errors"] == 0


def test_a_load_goes_through_what_room_there_is(daemon_maker: Daemons, tmp_path: Path) -> None:
    full = FullMount(daemon_maker, 5)
    write_model(tmp_path / "m", shards=1, blocks=40)
    with RawClient(full.daemon.socket) as client:
        load = client.open(str(tmp_path / "m"))
        seen: set[Block] = set()
        while len(seen) < 40:
            load.await_grants(1)
            blocks = set(load.granted)
            seen |= blocks
            load.give_back(blocks)
    assert full.daemon.totals()["errors"] == 0


def test_unused_shards_are_evicted_for_room(daemon_maker: Daemons, tmp_path: Path) -> None:
    full = FullMount(daemon_maker, 8)
    for name in "ab":
        write_model(tmp_path / name, shards=1, blocks=6)
        with RawClient(full.daemon.socket) as client:
            client.open(str(tmp_path / name), hold=True).await_grants(6)
    totals = full.daemon.totals()
    assert (totals["errors"], totals["worker_restarts"]) == (0, 0)
    assert totals["evicted_bytes"] >= 4 * BLOCK

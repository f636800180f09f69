"""Whatever ends a load, the daemon closes the files that came with it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.support.checkpoints import write_model
from tests.support.daemon import BLOCK, DaemonProcess
from tests.support.images import (
    mounted,
)
from tests.support.touched_files import flip
from tests.support.visitor import Visitor
from tests.support.waiting import eventually
from tests.support.worlds import (
    needs_root,
    open_files_of,
)


@needs_root()
@pytest.mark.parametrize("hold", [True, False])
def test_after_a_load_nobody_has_the_files_open(
    daemon: DaemonProcess, tmp_path: Path, hold: bool
) -> None:
    """Unmounting works, and removing the files frees their space, whatever stays in memory."""
    with mounted(tmp_path / "fs", "-t", "tmpfs", "-o", "size=16m", "tmpfs") as folder:
        empty = os.statvfs(folder).f_bfree
        files = write_model(folder / "m", shards=2, blocks=4)
        with Visitor() as client:
            client.load(daemon.socket, folder / "m", hold=hold)
            eventually(lambda: not _open_below(daemon, folder))
        shutil.rmtree(folder / "m")
        eventually(lambda: os.statvfs(folder).f_bfree == empty)
    assert not any(file.exists() for file in files)


def _open_below(daemon: DaemonProcess, folder: Path) -> list[str]:
    return [path for path in open_files_of(daemon.pid) if path.startswith(str(folder))]


def test_while_a_complete_shard_is_held_the_daemon_has_its_file_not_open(
    daemon: DaemonProcess, client: Visitor, model: Path
) -> None:
    client.ask("connect", socket=daemon.socket)
    client.ask("open", source=str(model))
    client.ask("read")
    eventually(lambda: not _open_below(daemon, model.parent))


@pytest.mark.parametrize("how", ["evict", "prefetch", "kill", "change"])
def test_whatever_ends_a_load_its_files_are_closed(
    daemon: DaemonProcess, model: Path, how: str
) -> None:
    with Visitor() as client:
        client.ask("connect", socket=daemon.socket)
        if how == "prefetch":
            client.ask("prefetch", source=str(model))
        elif how == "kill":
            client.ask("open", source=str(model), hold=False, memory_limit=0)
            client.ask("read", most=1)
            client.kill()
        else:
            client.load(daemon.socket, model)
            if how == "change":
                flip(model, BLOCK)
                client.load(daemon.socket, model)
            else:
                client.ask("connect", socket=daemon.socket)
                client.ask("evict", source=str(model))
        eventually(lambda: not _open_below(daemon, model.parent))

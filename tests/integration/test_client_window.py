"""Loads through a window: no block is given back before it was read, and no load stalls."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from streamer_client import connect
from streamer_client.client import Client
from streamer_client.contract.messages import Consumed, Open
from tests.support.checkpoints import random_tensor, write_model, write_shard
from tests.support.daemon import BLOCK as DAEMON_BLOCK
from tests.support.daemon import Daemons
from tests.support.daemon_script import Script
from tests.support.scripted_daemon import ScriptedDaemon

BLOCK = 4096
ROWS = 300


@pytest.fixture
def script() -> Script:
    return Script(block_bytes=BLOCK, window_blocks=2, holds=False)


@pytest.fixture
def checkpoint_dir(tmp_path: Path) -> Path:
    for place in range(3):
        stored = {
            f"p{place}.t{part}": random_tensor("F32", (ROWS, 7 + part), part) for part in range(9)
        }
        write_shard(tmp_path / f"m{place}.safetensors", stored)
    return tmp_path


def targets_like(source: Path) -> dict[str, torch.Tensor]:
    assert source.is_dir()
    return {
        f"p{place}.t{part}": torch.zeros(ROWS, 7 + part) for place in range(3) for part in range(9)
    }


def expected(name: str) -> bytes:
    part = int(name[-1])
    return random_tensor("F32", (ROWS, 7 + part), part)[2]


def assert_loaded(targets: dict[str, torch.Tensor]) -> None:
    for name, tensor in targets.items():
        assert bytes(tensor.reshape(-1).view(torch.uint8).tolist()) == expected(name), name


def consumed_blocks(daemon: ScriptedDaemon) -> list[tuple[int, int]]:
    return [
        (shard, block)
        for message in daemon.seen(Consumed)
        for shard, start, stop in message.ranges
        for block in range(start, stop)
    ]


def test_every_block_is_given_back_once(
    daemon: ScriptedDaemon, client: Client, checkpoint_dir: Path
) -> None:
    targets = targets_like(checkpoint_dir)
    with client.open(checkpoint_dir, hold=False) as checkpoint:
        checkpoint.load_into(targets)
        client.admin.status()
        assert_loaded(targets)
        blocks = consumed_blocks(daemon)
        assert len(blocks) == len(set(blocks))
        sizes = [path.stat().st_size for path in checkpoint_dir.iterdir()]
        assert len(blocks) == sum(-(-size // BLOCK) for size in sizes)
    assert len(daemon.seen(Open)) == 1


def test_header_longer_than_the_window(
    daemon: ScriptedDaemon, client: Client, tmp_path: Path
) -> None:
    for place in range(4):
        stored = {
            f"{place}.{part}" + "n" * 90: random_tensor("I8", (5,), part) for part in range(200)
        }
        path = write_shard(tmp_path / f"h{place}.safetensors", stored)
        assert path.stat().st_size > 5 * BLOCK
    with client.open(tmp_path) as checkpoint:
        assert len(checkpoint.catalog) == 800
        assert sum(1 for _ in checkpoint.tensors()) == 800


def test_catalog_after_first_blocks_were_granted(
    daemon: ScriptedDaemon, client: Client, checkpoint_dir: Path
) -> None:
    """The window is full of blocks of shard 0 when the client asks for all shards' headers."""
    with client.open(checkpoint_dir) as checkpoint:
        client.admin.status()
        assert len(checkpoint.catalog) == 27
        targets = targets_like(checkpoint_dir)
        checkpoint.load_into(targets)
        assert_loaded(targets)


def test_a_catalog_before_the_load_opens_nothing_anew(
    daemon: ScriptedDaemon, client: Client, checkpoint_dir: Path
) -> None:
    with client.open(checkpoint_dir, hold=False) as checkpoint:
        assert len(checkpoint.catalog) == 27
        targets = targets_like(checkpoint_dir)
        checkpoint.load_into(targets)
        assert_loaded(targets)
    assert len(daemon.seen(Open)) == 1


def test_a_catalog_before_the_load_has_nothing_read_twice(
    daemon_maker: Daemons, tmp_path: Path
) -> None:
    source = tmp_path / "model"
    files = write_model(source, shards=3, blocks=5)
    daemon = daemon_maker.start(f"--memory-limit={64 * DAEMON_BLOCK}")
    with connect(daemon.socket) as client, client.open(source, hold=False) as checkpoint:
        names = set(checkpoint.catalog)
        assert {name for name, _ in checkpoint.tensors()} == names
    assert daemon.totals()["source_read_bytes"] == sum(file.stat().st_size for file in files)


def test_two_interleaved_iterations_are_refused_clearly(
    client: Client, checkpoint_dir: Path
) -> None:
    from streamer_client.copy.feed import FeedClosed

    with client.open(checkpoint_dir, memory_limit=0) as checkpoint:
        first = checkpoint.tensors()
        next(first)
        assert len(list(checkpoint.tensors())) == 27
        with pytest.raises(FeedClosed, match="another iteration"):
            list(first)


def test_closing_in_the_middle_of_an_iteration(client: Client, checkpoint_dir: Path) -> None:
    from streamer_client.copy.feed import FeedClosed

    checkpoint = client.open(checkpoint_dir, memory_limit=0)
    iterator = checkpoint.tensors()
    next(iterator)
    checkpoint.close()
    with pytest.raises(FeedClosed, match="closed"):
        list(iterator)
    with pytest.raises(FeedClosed, match="closed"):
        _ = checkpoint.load_into({})


def test_a_pass_over_some_names_where_two_windows_have_no_room(
    daemon_maker: Daemons, tmp_path: Path
) -> None:
    """The load that still holds blocks of the last pass releases them before it is opened anew."""
    source = tmp_path / "model"
    write_model(source, shards=3, blocks=5)
    daemon = daemon_maker.start(f"--memory-limit={4 * DAEMON_BLOCK}")
    with connect(daemon.socket) as client, client.open(source, hold=False) as checkpoint:
        wanted = set(list(checkpoint.catalog)[::2])
        assert {name for name, _ in checkpoint.tensors(names=wanted)} == wanted

"""Views copy nothing, writes to them stay private, and the lease lasts as long as any view."""

from __future__ import annotations

import gc
import os
import re
from pathlib import Path

import pytest
import torch

from streamer_client.client import Client, daemon_client
from streamer_client.contract.errors import StreamerError
from streamer_client.contract.messages import Close, Consumed, Goodbye, ReleaseShards
from tests.support.checkpoints import random_tensor, write_shard
from tests.support.daemon import Daemons
from tests.support.daemon_script import Script
from tests.support.scripted_daemon import ScriptedDaemon
from tests.support.waiting import eventually

MIB = 1 << 20


@pytest.fixture
def script() -> Script:
    return Script(block_bytes=64 << 10)


@pytest.fixture
def two_shards(tmp_path: Path) -> Path:
    for place in range(2):
        stored = {f"w{place}.{part}": random_tensor("F32", (256, 256), part) for part in range(4)}
        write_shard(tmp_path / f"m{place}.safetensors", stored)
    return tmp_path


def slab_ranges() -> list[tuple[int, int]]:
    found = re.findall(
        r"^(\w+)-(\w+) .*/dev/shm/streamerd", Path("/proc/self/maps").read_text(), re.MULTILINE
    )
    return [(int(start, 16), int(stop, 16)) for start, stop in found]


def private_bytes() -> int:
    """Memory that no other process could share: anonymous pages, among them private copies of file
    pages.
    """
    text = Path("/proc/self/smaps_rollup").read_text()
    return int(re.findall(r"^Anonymous:\s+(\d+) kB", text, re.MULTILINE)[0]) * 1024


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.equal(one.view(torch.int32), other.view(torch.int32))


def test_views_lie_in_the_slabs(client: Client, two_shards: Path) -> None:
    with client.open(two_shards) as checkpoint:
        tensors = dict(checkpoint.tensors())
        ranges = slab_ranges()
        for tensor in tensors.values():
            address = tensor.data_ptr()
            assert any(start <= address < stop for start, stop in ranges)
        assert checkpoint.stats.mode == "daemon"


def test_views_take_no_private_memory(client: Client, tmp_path: Path) -> None:
    write_shard(tmp_path / "big.safetensors", {"big": ("U8", (64 * MIB,), bytes(64 * MIB))})
    with client.open(tmp_path) as checkpoint:
        assert list(checkpoint.catalog)
        before = private_bytes()
        tensors = dict(checkpoint.tensors())
        assert int(tensors["big"].sum()) == 0
        assert private_bytes() - before < 8 * MIB


def test_writing_to_a_view_stays_private(
    daemon: ScriptedDaemon, client: Client, two_shards: Path
) -> None:
    path = two_shards / "m0.safetensors"
    with client.open([path]) as checkpoint, client.open([path]) as other:
        tensor = dict(checkpoint.tensors())["w0.2"]
        untouched = dict(other.tensors())["w0.2"]
        tensor.fill_(1.0)
        assert torch.all(tensor == 1.0)
        assert daemon.shared_bytes(str(path)) == [path.read_bytes()] * 2
        assert not same_bits(untouched, tensor)


def test_held_blocks_are_never_consumed(
    daemon: ScriptedDaemon, client: Client, two_shards: Path
) -> None:
    with client.open(two_shards) as checkpoint:
        list(checkpoint.tensors())
        targets = {name: torch.empty(256, 256) for name in checkpoint.catalog}
        checkpoint.load_into(targets)
    assert not daemon.seen(Consumed)


def test_close_ends_a_load_without_views(
    daemon: ScriptedDaemon, client: Client, two_shards: Path
) -> None:
    checkpoint = client.open(two_shards)
    for _, tensor in checkpoint.tensors():
        del tensor
    checkpoint.close()
    checkpoint.close()
    eventually(lambda: daemon.seen(Close), what="Close")


def test_forgotten_checkpoint_ends_its_load(
    daemon: ScriptedDaemon, client: Client, two_shards: Path
) -> None:
    client.open(two_shards)
    gc.collect()
    eventually(lambda: daemon.seen(Close), what="Close")


def test_each_shard_is_released_with_its_last_view(
    daemon: ScriptedDaemon, client: Client, two_shards: Path
) -> None:
    checkpoint = client.open(two_shards)
    tensors = dict(checkpoint.tensors())
    checkpoint.close()
    part = tensors["w1.0"][3:5]
    expected = part.clone()
    for name in list(tensors):
        if name.startswith("w1"):
            del tensors[name]
    client.admin.status()  # Once this request is answered, everything sent before it has arrived.
    assert not daemon.seen(ReleaseShards)
    assert same_bits(part, expected)
    del part
    eventually(lambda: daemon.seen(ReleaseShards), what="ReleaseShards")
    assert daemon.seen(ReleaseShards)[0].shards == (1,)
    assert not daemon.seen(Close)
    tensors.clear()
    eventually(lambda: daemon.seen(Close), what="Close")


def test_views_outlive_client_and_keep_the_connection(
    daemon: ScriptedDaemon, two_shards: Path
) -> None:
    with daemon_client(daemon.socket_path) as client, client.open(two_shards) as checkpoint:
        tensors = dict(checkpoint.tensors())
    expected = {name: tensor.clone() for name, tensor in tensors.items()}
    with daemon_client(daemon.socket_path) as other:
        other.admin.status()
    assert len(daemon.seen(Goodbye)) <= 1
    assert not daemon.seen(Close)
    for name, tensor in tensors.items():
        assert same_bits(tensor, expected[name])
    del tensor
    tensors.clear()
    eventually(lambda: len(daemon.seen(Goodbye)) == 2, what="both Goodbyes")
    assert daemon.open_loads == 0


def test_forgotten_client_leaves(daemon: ScriptedDaemon) -> None:
    daemon_client(daemon.socket_path)
    gc.collect()
    eventually(lambda: daemon.seen(Goodbye), what="Goodbye")


def slab_descriptors() -> int:
    links = (Path(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd"))
    return sum(
        str(link.readlink()).startswith("/dev/shm/streamerd") for link in links if link.is_symlink()
    )


def test_a_closed_checkpoint_has_no_descriptors_of_slabs(
    daemon_maker: Daemons, two_shards: Path
) -> None:
    running = daemon_maker.start(f"--memory-limit={4 * MIB}")
    with daemon_client(running.socket) as client:
        checkpoint = client.open(two_shards)
        tensors = dict(checkpoint.tensors())
        view = tensors.popitem()[1]
        tensors.clear()
        assert slab_descriptors() >= 2
        checkpoint.close()
        assert slab_descriptors() == 1, "a mapping has one of its own as long as views refer to it"
        assert view.shape == (256, 256)
        del view
        gc.collect()
        assert slab_descriptors() == 0
        with pytest.raises(StreamerError):
            dict(checkpoint.tensors())

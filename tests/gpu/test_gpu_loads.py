"""Loads to a real GPU through both rings: every byte is right, whatever work the device has
pending.
"""

from __future__ import annotations

import gc
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from tests.support.checkpoints import one_of_each, random_tensor, write_model, write_shard
from tests.support.daemon import BLOCK, DaemonProcess, Daemons

import streamer_client
from streamer_client.checkpoint import Checkpoint
from streamer_client.copy.ring.engine import RingEngine
from streamer_client.tensors import iteration, staging

pytestmark = pytest.mark.usefixtures("ring")
GPU = "cuda:0"


class Way(NamedTuple):
    """A way in which bytes come: through a daemon, or directly where it is None."""

    daemon: DaemonProcess | None
    hold: bool = True
    page_cache: bool = False


@contextmanager
def opened(source: Path, way: Way) -> Iterator[Checkpoint]:
    client = (
        streamer_client.connect(mode="direct")
        if way.daemon is None
        else streamer_client.connect(way.daemon.socket)
    )
    with client, client.open(source, hold=way.hold, page_cache=way.page_cache) as checkpoint:
        yield checkpoint


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Two shards of many small tensors, one of every dtype, and one that spans blocks."""
    directory = tmp_path / "model"
    write_model(directory, shards=2, blocks=5)
    write_shard(directory / "each.safetensors", one_of_each(), pad=False)
    small = {f"small.{place:03d}": random_tensor("BF16", (place, 5), place) for place in range(200)}
    small["big"] = random_tensor("F32", (70_001,), 9)
    write_shard(directory / "small.safetensors", small)
    return directory


def expected(source: Path) -> dict[str, torch.Tensor]:
    with streamer_client.connect(mode="direct") as client, client.open(source) as checkpoint:
        return dict(checkpoint.tensors())


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Compare bit by bit, since NaN equals nothing, and a device cannot compare tensors of some
    dtypes.
    """
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    flat = [tensor.cpu().reshape(-1).view(torch.uint8) for tensor in (one, other)]
    return torch.equal(*flat)


def check(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert list(found) == list(wanted)
    for name, tensor in found.items():
        assert tensor.device == torch.device(GPU)
        assert same(tensor, wanted[name]), name


@pytest.fixture(params=["held", "window", "cached", "direct"])
def way(request: pytest.FixtureRequest, daemon_maker: Daemons) -> Way:
    match request.param:
        case "held":
            return Way(daemon_maker.start(f"--memory-limit={64 * BLOCK}"))
        case "window":
            return Way(daemon_maker.start(f"--memory-limit={6 * BLOCK}"), hold=False)
        case "cached":
            daemon = daemon_maker.start(f"--memory-limit={64 * BLOCK}")
            return Way(daemon, hold=False, page_cache=True)
        case _:
            return Way(None)


def test_tensors_on_the_gpu_live_as_long_as_they_are_referenced(model: Path, way: Way) -> None:
    with opened(model, way) as checkpoint:
        found = dict(checkpoint.tensors(device=GPU))
    check(found, expected(model))


def test_parameters_are_filled_in_place(model: Path, way: Way) -> None:
    wanted = expected(model)
    targets = {
        name: torch.full_like(tensor.view(torch.uint8), 1, device=GPU).view(tensor.dtype)
        if tensor.numel() and tensor.dim()
        else torch.zeros_like(tensor, device=GPU)
        for name, tensor in wanted.items()
    }
    places = {name: target.data_ptr() for name, target in targets.items()}
    allocated = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    with opened(model, way) as checkpoint:
        checkpoint.load_into(targets)
    assert torch.cuda.max_memory_allocated() == allocated, "no other memory of the GPU"
    assert {name: target.data_ptr() for name, target in targets.items()} == places
    check(targets, wanted)


@pytest.mark.parametrize("order", ["as stored", "mixed"])
def test_many_small_parameters(tmp_path: Path, way: Way, order: str) -> None:
    """The parameters lie side by side on the GPU, so that copies are joined, or apart."""
    stored = {f"p{place:04d}": random_tensor("BF16", (32, 16), place) for place in range(500)}
    (tmp_path / "m").mkdir()
    write_shard(tmp_path / "m" / "small.safetensors", stored)
    wanted = expected(tmp_path / "m")
    names = list(wanted)
    if order == "mixed":
        random.Random(3).shuffle(names)
    made = {name: torch.zeros_like(wanted[name], device=GPU) for name in names}
    with opened(tmp_path / "m", way) as checkpoint:
        checkpoint.load_into(made)
    check({name: made[name] for name in wanted}, wanted)


def test_some_names_only(model: Path, way: Way) -> None:
    wanted = {name: one for name, one in expected(model).items() if hash(name) % 3}
    with opened(model, way) as checkpoint:
        check(dict(checkpoint.tensors(device=GPU, names=set(wanted))), wanted)


def test_what_does_not_fit_as_it_is_goes_the_slow_way(model: Path, way: Way) -> None:
    wanted = expected(model)
    targets = {name: torch.empty_like(tensor, device=GPU) for name, tensor in wanted.items()}
    targets["big"] = torch.zeros(80_000, dtype=torch.float64, device=GPU)
    targets["small.007"] = torch.zeros(5, 7, dtype=torch.bfloat16, device=GPU).t()
    targets["small.008"] = torch.zeros(8, 5, dtype=torch.bfloat16)
    told: list[str] = []
    with opened(model, way) as checkpoint:
        checkpoint.load_into(targets, on_mismatch=lambda name, *_: told.append(name))
    assert told == ["big"]
    big = targets.pop("big")[:70_001].float().cpu()
    torch.testing.assert_close(big, wanted.pop("big"), rtol=0, atol=0, equal_nan=True)
    assert same(targets.pop("small.007").contiguous(), wanted.pop("small.007"))
    assert same(targets.pop("small.008"), wanted.pop("small.008"))
    check(targets, wanted)


def test_memory_that_is_still_in_use_is_waited_for(model: Path, streamerd: DaemonProcess) -> None:
    """Work that still runs on the stream may write to memory that torch gives out again."""
    wanted = expected(model)
    with opened(model, Way(streamerd, hold=False)) as checkpoint:
        size = 2 * max(tensor.nbytes for tensor in wanted.values())
        torch.cuda.empty_cache()
        late = [torch.empty(size, dtype=torch.uint8, device=GPU) for _ in range(40)]
        cuda: Any = torch.cuda
        cuda._sleep(200_000_000)
        for tensor in late:
            tensor.fill_(0xAA)
        late.clear()
        del tensor
        found = dict(checkpoint.tensors(device=GPU))
    torch.cuda.synchronize()
    check(found, wanted)


def test_staging_is_bounded(model: Path, way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    bound = 10 * BLOCK
    monkeypatch.setattr(iteration, "DEVICE_AHEAD_BYTES", bound)
    monkeypatch.setattr(staging, "GROUP_BYTES", BLOCK)
    largest = max(tensor.nbytes for tensor in expected(model).values())
    gc.collect()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    with opened(model, way) as checkpoint:
        for _name, _tensor in checkpoint.tensors(device=GPU):
            pass
    rounding = 512 * 64
    peak = torch.cuda.max_memory_allocated() - before
    assert 0 < peak <= max(bound, 2 * largest) + largest + rounding


def test_an_iteration_that_is_given_up(model: Path, way: Way) -> None:
    with opened(model, way) as checkpoint:
        items = checkpoint.tensors(device=GPU)
        name, tensor = next(items)
        del items
        gc.collect()
    assert same(tensor, expected(model)[name])


def test_a_daemon_that_dies_meanwhile(
    model: Path, streamerd: DaemonProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = RingEngine._copy
    killed: list[bool] = []

    def kill_first(self: RingEngine, *arguments: object) -> None:
        if not killed:
            killed.append(True)
            streamerd.kill()
        copy(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(RingEngine, "_copy", kill_first)
    from streamer_client.client import daemon_client

    with (
        daemon_client(streamerd.socket, reconnect_s=0.1) as client,
        client.open(model, hold=False) as checkpoint,
    ):
        found = dict(checkpoint.tensors(device=GPU))
        assert checkpoint.stats.mode == "daemon+direct"
    check(found, expected(model))

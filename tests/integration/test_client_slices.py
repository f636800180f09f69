"""Slices through a real daemon: each slice has its bytes, nothing else is copied, and later layers
are foretold.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import streamer_client
from streamer_client.checkpoint import Checkpoint
from streamer_client.tensors.lazy import LazyTensor
from tests.support.daemon import DaemonProcess, Daemons
from tests.support.waiting import eventually

ROWS, COLUMNS, LAYERS = 1024, 1024, 6


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor]]:
    """A model of layers with large weights and small norms, over two shards."""
    directory = tmp_path_factory.mktemp("layers")
    tensors: dict[str, torch.Tensor] = {}
    for layer in range(LAYERS):
        part = {
            f"layers.{layer}.up.weight": torch.randn(ROWS, COLUMNS).bfloat16(),
            f"layers.{layer}.down.weight": torch.randn(COLUMNS, ROWS).bfloat16(),
            f"layers.{layer}.norm.weight": torch.randn(COLUMNS).bfloat16(),
        }
        save_file(part, directory / f"model-{layer}.safetensors")
        tensors |= part
    return directory, tensors


@pytest.fixture
def streamerd(daemon_maker: Daemons) -> DaemonProcess:
    """A daemon with room for the whole model."""
    return daemon_maker.start("--memory-limit=64MiB")


def test_each_slice_is_right_and_nothing_else_is_copied(
    streamerd: DaemonProcess, model: tuple[Path, dict[str, torch.Tensor]]
) -> None:
    directory, tensors = model
    with (
        streamer_client.connect(streamerd.socket) as client,
        client.open(directory) as checkpoint,
    ):
        with checkpoint.slices("cpu") as weights:
            for name, weight in weights:
                part = halved(name, weight)
                target = torch.empty(part.shape, dtype=part.dtype)
                target.copy_(part)
                assert torch.equal(target, halved(name, tensors[name]))
                assert isinstance(weight, LazyTensor) == ("norm" not in name)
                del weight, part  # a weight still referenced at the end is fetched as a whole
        small = sum(tensor.nbytes for name, tensor in tensors.items() if "norm" in name)
        large = sum(tensor.nbytes for tensor in tensors.values()) - small
        assert checkpoint.stats.copied_bytes == large // 2 + small
        assert checkpoint.stats.loaded_bytes == large + small


def halved(name: str, weight: torch.Tensor) -> torch.Tensor:
    """The part of one of two ranks, cut as column and row parallel layers cut it."""
    if "up" in name:
        return weight[ROWS // 2 :]
    return weight[:, : ROWS // 2] if "down" in name else weight


def test_a_wrong_guess_is_fetched_again(
    streamerd: DaemonProcess, model: tuple[Path, dict[str, torch.Tensor]]
) -> None:
    directory, tensors = model
    with (
        streamer_client.connect(streamerd.socket) as client,
        client.open(directory) as checkpoint,
        checkpoint.slices("cpu") as weights,
    ):
        for number, (name, weight) in enumerate(weights):
            rows = slice(number, number + 100)
            assert torch.equal(weight[rows] + 0, tensors[name][rows])


def test_weights_that_are_collected_first(
    streamerd: DaemonProcess, model: tuple[Path, dict[str, torch.Tensor]]
) -> None:
    directory, tensors = model
    with (
        streamer_client.connect(streamerd.socket) as client,
        client.open(directory) as checkpoint,
        checkpoint.slices("cpu") as weights,
    ):
        collected = dict(weights)
        assert collected.keys() == tensors.keys()
        for name, weight in reversed(collected.items()):
            assert torch.equal(weight.t().contiguous(), tensors[name].t())


def test_only_the_named_ones(
    streamerd: DaemonProcess, model: tuple[Path, dict[str, torch.Tensor]]
) -> None:
    directory, tensors = model
    wanted = {"layers.1.up.weight", "layers.4.norm.weight"}
    with (
        streamer_client.connect(streamerd.socket) as client,
        client.open(directory) as checkpoint,
        checkpoint.slices("cpu", wanted) as weights,
    ):
        found = {name: weight.clone() for name, weight in weights}
    assert found.keys() == wanted
    for name, weight in found.items():
        assert torch.equal(weight, tensors[name])


def test_without_a_daemon_tensors_are_ordinary(
    model: tuple[Path, dict[str, torch.Tensor]],
) -> None:
    directory, tensors = model
    with (
        streamer_client.connect(mode="direct") as client,
        client.open(directory) as checkpoint,
        checkpoint.slices("cpu") as weights,
    ):
        for name, weight in weights:
            assert type(weight) is torch.Tensor
            assert torch.equal(weight, tensors[name])


def test_lazy_tensors_that_outlive_the_context_are_fetched(
    streamerd: DaemonProcess, model: tuple[Path, dict[str, torch.Tensor]]
) -> None:
    directory, tensors = model
    with streamer_client.connect(streamerd.socket) as client, client.open(directory) as checkpoint:
        with checkpoint.slices("cpu") as weights:
            kept = {name: weight for name, weight in weights if "layers.0" in name}
            part = kept.pop("layers.0.up.weight")[1:]
        own = sum(tensors[name].nbytes for name in (*kept, "layers.0.up.weight"))
        small = sum(tensor.nbytes for name, tensor in tensors.items() if "norm" in name)
        assert checkpoint.stats.copied_bytes == own + small - tensors["layers.0.norm.weight"].nbytes
    assert torch.equal(part + 0, tensors["layers.0.up.weight"][1:])
    for name, weight in kept.items():
        assert torch.equal(weight.t() + 0, tensors[name].t())


def test_after_an_error_a_lazy_tensor_says_that_it_is_closed(
    streamerd: DaemonProcess, model: tuple[Path, dict[str, torch.Tensor]]
) -> None:
    directory, _ = model
    with streamer_client.connect(streamerd.socket) as client, client.open(directory) as checkpoint:
        kept = torch.empty(0)

        def load() -> None:
            nonlocal kept
            with checkpoint.slices("cpu") as weights:
                kept = next(weight for name, weight in weights if "up" in name)
                raise ValueError("broken")

        with pytest.raises(ValueError, match="broken"):
            load()
        assert checkpoint.stats.copied_bytes < ROWS * COLUMNS
        with pytest.raises(streamer_client.StreamerError, match=r"layers\.0\.up\.weight .*closed"):
            kept.sum()


def test_a_loader_that_stops_early_leaves_nothing_behind(
    streamerd: DaemonProcess, model: tuple[Path, dict[str, torch.Tensor]]
) -> None:
    directory, tensors = model
    with streamer_client.connect(streamerd.socket) as client, client.open(directory) as checkpoint:
        with checkpoint.slices("cpu") as weights:
            name = next(name for name, _ in weights)
        assert next(weights, None) is None
        with checkpoint.slices("cpu") as again:
            assert dict(again).keys() == tensors.keys()
    assert name in tensors


def test_threads_that_use_tensors_while_others_are_handed_out(
    streamerd: DaemonProcess, model: tuple[Path, dict[str, torch.Tensor]]
) -> None:
    directory, tensors = model
    with (
        streamer_client.connect(streamerd.socket) as client,
        client.open(directory) as checkpoint,
        checkpoint.slices("cpu") as weights,
        ThreadPoolExecutor(4) as pool,
    ):
        found = {name: pool.submit(torch.clone, weight) for name, weight in weights}
    for name, tensor in found.items():
        assert torch.equal(tensor.result(), tensors[name])


class TestWhatIsCounted:
    """`copied_bytes` of ordinary loads."""

    def test_views_are_no_copies(
        self, streamerd: DaemonProcess, model: tuple[Path, dict[str, torch.Tensor]]
    ) -> None:
        directory, tensors = model
        with (
            streamer_client.connect(streamerd.socket) as client,
            client.open(directory) as checkpoint,
        ):
            assert dict(checkpoint.tensors()).keys() == tensors.keys()
            assert checkpoint.stats.loaded_bytes == every_byte(tensors)
            assert checkpoint.stats.copied_bytes == 0
            checkpoint.load_into({name: torch.empty_like(one) for name, one in tensors.items()})
            assert checkpoint.stats.copied_bytes == every_byte(tensors)

    def test_private_tensors_are(self, model: tuple[Path, dict[str, torch.Tensor]]) -> None:
        directory, tensors = model
        with (
            streamer_client.connect(mode="direct") as client,
            client.open(directory) as checkpoint,
        ):
            assert dict(checkpoint.tensors()).keys() == tensors.keys()
            assert checkpoint.stats.copied_bytes == every_byte(tensors)


def every_byte(tensors: dict[str, torch.Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())


def loaded_in_halves(
    checkpoint: Checkpoint, tensors: dict[str, torch.Tensor], after: Callable[[int], None]
) -> None:
    """Load as one of two ranks; `after` is called with each tensor's number once the tensor is
    loaded.
    """
    with checkpoint.slices("cpu") as weights:
        for number, (name, weight) in enumerate(weights):
            assert torch.equal(halved(name, weight) + 0, halved(name, tensors[name])), name
            del weight
            after(number)


class TestOtherWaysThanSlabs:
    """Slices where a daemon's shared memory does not hold the files, or holds them no longer."""

    def test_slices_come_from_the_page_cache_and_the_daemon_reads_afterwards(
        self, streamerd: DaemonProcess, model: tuple[Path, dict[str, torch.Tensor]]
    ) -> None:
        directory, tensors = model
        with streamer_client.connect(streamerd.socket) as client:
            with client.open(directory, hold=True, page_cache=True) as checkpoint:
                loaded_in_halves(checkpoint, tensors, lambda _: None)
                assert checkpoint.stats.mode == "page-cache"
                assert checkpoint.stats.copied_bytes < 0.53 * every_byte(tensors)
            sizes = sum(path.stat().st_size for path in directory.iterdir())
            eventually(lambda: streamerd.totals()["source_read_bytes"] == sizes)
            with client.open(directory, hold=True, page_cache=True) as checkpoint:
                loaded_in_halves(checkpoint, tensors, lambda _: None)
                assert checkpoint.stats.mode == "daemon"

    @pytest.mark.parametrize("change", ["write", "cut"])
    def test_a_file_that_changes_meanwhile(
        self,
        streamerd: DaemonProcess,
        model: tuple[Path, dict[str, torch.Tensor]],
        tmp_path: Path,
        change: str,
    ) -> None:
        directory, _ = model
        copied = shutil.copytree(directory, tmp_path / "m")
        last = copied / f"model-{LAYERS - 1}.safetensors"

        def load() -> None:
            with (
                client.open(copied, hold=True, page_cache=True) as checkpoint,
                checkpoint.slices("cpu") as weights,
            ):
                for number, (_, weight) in enumerate(weights):
                    if not number:
                        os.truncate(last, last.stat().st_size - (change == "cut") * 4096)
                    weight.clone()

        with (
            streamer_client.connect(streamerd.socket) as client,
            pytest.raises(streamer_client.SourceChanged, match="open the checkpoint again"),
        ):
            load()

    def test_a_daemon_that_dies_meanwhile_is_done_without(
        self, daemon_maker: Daemons, model: tuple[Path, dict[str, torch.Tensor]]
    ) -> None:
        directory, tensors = model
        streamerd = daemon_maker.start("--memory-limit=64MiB", "--bandwidth-limit=4MiB")
        with (
            streamer_client.connect(streamerd.socket) as client,
            client.open(directory, hold=True) as checkpoint,
        ):
            loaded_in_halves(
                checkpoint, tensors, lambda number: None if number else streamerd.kill()
            )
            assert checkpoint.stats.mode == "daemon+direct"


def test_the_daemon_shows_what_clients_copied(
    streamerd: DaemonProcess, model: tuple[Path, dict[str, torch.Tensor]]
) -> None:
    directory, tensors = model
    with streamer_client.connect(streamerd.socket) as client, client.open(directory) as checkpoint:
        loaded_in_halves(checkpoint, tensors, lambda _: None)
        copied_bytes = checkpoint.stats.copied_bytes
        eventually(lambda: streamerd.totals()["copied_bytes"] == copied_bytes)
        checkpoint.load_into({name: torch.empty_like(one) for name, one in tensors.items()})
        whole_bytes = every_byte(tensors)
        eventually(lambda: streamerd.totals()["copied_bytes"] == copied_bytes + whole_bytes)

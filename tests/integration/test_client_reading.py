"""Catalog, tensors and load_into against the scripted daemon and without one, byte for byte."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from streamer_client.client import Client, daemon_client, direct_client
from streamer_client.contract.errors import CorruptCheckpoint, SourceError
from streamer_client.contract.safetensors.catalog import DTYPE_BITS
from streamer_client.copy.dtypes import torch_form
from tests.support.checkpoints import Stored, one_of_each, random_tensor, write_shard
from tests.support.daemon_script import Script
from tests.support.scripted_daemon import scripted_daemon

BLOCK = 4096
WAYS = ["held", "copied", "tiny-window", "direct"]


def as_bytes(tensor: torch.Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return bytes(flat.view(torch.uint8).tolist())


def big_and_small() -> dict[str, Stored]:
    """Tensors that end and begin in the middle of blocks, span many, or share one."""
    sizes = [1, 3000, 50_000, 7, 4096, 12_345, 2]
    return {f"b{place}": random_tensor("U8", (size,), place) for place, size in enumerate(sizes)}


@pytest.fixture
def shards(tmp_path: Path) -> dict[str, Stored]:
    """A checkpoint of four shards: one with all dtypes, one with many blocks, one without tensors,
    and one whose header has many blocks.
    """
    tiny = {f"tiny.{place:04d}": random_tensor("I16", (3,), place) for place in range(400)}
    parts = [one_of_each(), big_and_small(), {}, tiny]
    for place, tensors in enumerate(parts):
        write_shard(tmp_path / f"model-{place}.safetensors", tensors)
    return {name: stored for tensors in parts for name, stored in tensors.items()}


@pytest.fixture(params=WAYS)
def any_client(request: pytest.FixtureRequest, socket_path: Path) -> Iterator[Client]:
    if request.param == "direct":
        with direct_client() as client:
            yield client
        return
    script = Script(block_bytes=BLOCK, holds=request.param == "held")
    if request.param == "tiny-window":
        script.window_blocks = 2
    with scripted_daemon(socket_path, script), daemon_client(str(socket_path)) as client:
        yield client


def assert_all(found: Mapping[str, torch.Tensor], stored: Mapping[str, Stored]) -> None:
    assert set(found) == set(stored)
    for name, (dtype, shape, data) in stored.items():
        assert (found[name].dtype, tuple(found[name].shape)) == torch_form(dtype, tuple(shape))
        assert as_bytes(found[name]) == data, name


def test_tensors_are_the_files_bytes(
    any_client: Client, tmp_path: Path, shards: dict[str, Stored]
) -> None:
    with any_client.open(tmp_path) as checkpoint:
        assert_all(dict(checkpoint.tensors()), shards)
        assert checkpoint.stats.tensors == len(shards)


def test_second_iteration_and_catalog_after_it(
    any_client: Client, tmp_path: Path, shards: dict[str, Stored]
) -> None:
    with any_client.open(tmp_path) as checkpoint:
        assert list(checkpoint.tensors())
        assert list(checkpoint.catalog) == list(shards)
        assert_all(dict(checkpoint.tensors()), shards)


def test_catalog_first(any_client: Client, tmp_path: Path, shards: dict[str, Stored]) -> None:
    with any_client.open(tmp_path) as checkpoint:
        entry = checkpoint.catalog["b2"]
        assert (entry.dtype, entry.shape, entry.stop - entry.start) == ("U8", (50_000,), 50_000)
        assert entry.uri == str(tmp_path / "model-1.safetensors")
        assert_all(dict(checkpoint.tensors()), shards)


def test_named_tensors_only(any_client: Client, tmp_path: Path, shards: dict[str, Stored]) -> None:
    names = {"tiny.0399", "b2", "scalar"}
    with any_client.open(tmp_path) as checkpoint:
        found = dict(checkpoint.tensors(names=names))
        assert_all(found, {name: shards[name] for name in names})
        with pytest.raises(SourceError, match="no tensor nothing"):
            list(checkpoint.tensors(names={"nothing"}))


def test_abandoned_iteration_does_not_block_the_next(
    any_client: Client, tmp_path: Path, shards: dict[str, Stored]
) -> None:
    with any_client.open(tmp_path) as checkpoint:
        for name, _ in checkpoint.tensors():
            if name == "b1":
                break
        assert_all(dict(checkpoint.tensors()), shards)


def test_load_into_like_safetensors_itself(
    any_client: Client, tmp_path: Path, shards: dict[str, Stored]
) -> None:
    targets = {}
    for name, (dtype, shape, _) in shards.items():
        form, size = torch_form(dtype, tuple(shape))
        targets[name] = (
            torch.zeros(size, dtype=torch.uint8).view(form)
            if form.itemsize == 1
            else (torch.zeros(size, dtype=form))
        )
    told: list[str] = []
    with any_client.open(tmp_path, hold=False) as checkpoint:
        loaded = checkpoint.load_into(
            targets, on_tensor=lambda name, _size_bytes: told.append(name)
        )
    assert loaded == set(shards)
    assert sorted(told) == sorted(shards)
    assert_all(targets, shards)


def test_every_dtype_as_safetensors_loads_it(any_client: Client, tmp_path: Path) -> None:
    known = {
        name: stored for name, stored in one_of_each().items() if not stored[0].startswith("F6")
    }
    path = write_shard(tmp_path / "x.safetensors", known)
    expected = load_file(path)
    with any_client.open(path) as checkpoint:
        for name, tensor in checkpoint.tensors():
            assert tensor.dtype == expected[name].dtype
            assert tensor.shape == expected[name].shape
            assert as_bytes(tensor) == as_bytes(expected[name])


@pytest.mark.parametrize("dtype", sorted(DTYPE_BITS))
def test_unaligned_data(socket_path: Path, tmp_path: Path, dtype: str) -> None:
    stored = {"odd": random_tensor("U8", (3,)), "x": random_tensor(dtype, (2, 8), 1)}
    path = write_shard(tmp_path / "odd.safetensors", stored, pad=False)
    with (
        scripted_daemon(socket_path, Script(block_bytes=BLOCK)),
        daemon_client(str(socket_path)) as client,
        client.open(path) as checkpoint,
    ):
        tensors = dict(checkpoint.tensors())
        assert_all(tensors, stored)
        assert tensors["x"].data_ptr() % tensors["x"].element_size() == 0


def test_name_in_two_shards_is_told_with_both(any_client: Client, tmp_path: Path) -> None:
    for place in range(2):
        write_shard(tmp_path / f"p{place}.safetensors", {"same": random_tensor("F32", (4,))})
    with (
        any_client.open(tmp_path) as checkpoint,
        pytest.raises(CorruptCheckpoint, match=r"same.*p0\.safetensors.*p1\.safetensors"),
    ):
        list(checkpoint.tensors())


def test_empty_file_is_corrupt(any_client: Client, tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").touch()
    with any_client.open(tmp_path) as checkpoint, pytest.raises(CorruptCheckpoint, match="empty"):
        list(checkpoint.tensors())


@pytest.mark.parametrize("memory_limit", [0, 10_000, -1])
def test_read_ahead_is_bounded_and_right(
    any_client: Client, tmp_path: Path, shards: dict[str, Stored], memory_limit: int
) -> None:
    with any_client.open(tmp_path, memory_limit=memory_limit) as checkpoint:
        assert_all(dict(checkpoint.tensors()), shards)

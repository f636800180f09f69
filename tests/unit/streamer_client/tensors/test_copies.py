"""If a tensor is in two shards, the copy in the shard that the caller names counts, in any order of
reading.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from streamer_client import CorruptCheckpoint
from streamer_client.client import direct_client

FILES = ["a.safetensors", "b.safetensors"]


@pytest.fixture
def overlay(tmp_path: Path) -> str:
    """`x` is 1 in the first file and 2 in the second; each file also has a tensor of its own."""
    save_file({"x": torch.full((4,), 1.0), "y": torch.zeros(2)}, tmp_path / FILES[0])
    save_file({"x": torch.full((4,), 2.0), "z": torch.zeros(2)}, tmp_path / FILES[1])
    return str(tmp_path)


@pytest.mark.parametrize(("owner", "value"), [(FILES[0], 1.0), (FILES[1], 2.0)])
@pytest.mark.parametrize("names", [None, frozenset({"x", "z"})])
def test_the_last_that_comes_is_of_the_owner(
    overlay: str, owner: str, value: float, names: frozenset[str] | None
) -> None:
    owners = {"x": owner, "y": FILES[0], "z": FILES[1]}
    with direct_client() as client, client.open(overlay, files=FILES, owners=owners) as checkpoint:
        loaded = dict(checkpoint.tensors(names=names))
        assert loaded["x"].tolist() == [value] * 4
        assert set(loaded) == ({"x", "y", "z"} if names is None else names)
        assert checkpoint.catalog["x"].uri.endswith(owner)
        again = [tensor.tolist() for name, tensor in checkpoint.tensors(names={"x"})]
        assert again[-1] == [value] * 4


def test_an_owner_that_has_it_not_is_passed_over(overlay: str) -> None:
    owners = {"x": FILES[0], "y": FILES[1], "z": FILES[0]}
    with direct_client() as client, client.open(overlay, files=FILES, owners=owners) as checkpoint:
        assert set(dict(checkpoint.tensors())) == {"x", "y", "z"}
        assert checkpoint.catalog["y"].uri.endswith(FILES[0])


def test_what_no_owner_is_told_of_is_an_error(overlay: str) -> None:
    owners = {"y": FILES[0]}
    with (
        direct_client() as client,
        client.open(overlay, files=FILES, owners=owners) as checkpoint,
        pytest.raises(CorruptCheckpoint, match="tensor x is in two shards"),
    ):
        list(checkpoint.tensors())

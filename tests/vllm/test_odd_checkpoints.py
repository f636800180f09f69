"""Odd checkpoints: each name and byte is read as vLLM's own loader reads it, or refused as it
refuses.

An operator's folder may hold odd names, dtypes and shapes, empty shards, an index with mistakes,
and files of other kinds. Nothing is started; the loaders read.
"""

from __future__ import annotations

import json
import struct
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tests.support.daemon import DaemonProcess

Tensors = dict[str, torch.Tensor]
Fill = Callable[[Path], None]

INDEX: Final = "model.safetensors.index.json"
EIGHT_BITS: Final = ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e8m0fnu")


def numbers(*shape: int) -> torch.Tensor:
    return torch.arange(torch.Size(shape).numel(), dtype=torch.bfloat16).reshape(shape)


def files(index: str = "", **shards: Tensors) -> Fill:
    """Files by name without suffix, and the text of an index."""

    def fill(directory: Path) -> None:
        for name, tensors in shards.items():
            save_file(tensors, directory / f"{name}.safetensors")
        if index:
            (directory / INDEX).write_text(index)

    return fill


def owners(**owners: str) -> str:
    mapped = {name: f"{shard}.safetensors" for name, shard in owners.items()}
    return json.dumps({"metadata": {"total_size": 1}, "weight_map": mapped, "more": [1]})


def headed(header: Mapping[str, Any], content: bytes) -> Fill:
    """A file with a header that no writer of safetensors makes."""

    def fill(directory: Path) -> None:
        text = json.dumps(header).encode()
        path = directory / "model.safetensors"
        path.write_bytes(struct.pack("<Q", len(text)) + text + content)

    return fill


def entry(dtype: str, shape: list[int], start: int, stop: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


def _dtypes() -> Tensors:
    stored = torch.arange(16, dtype=torch.uint8)
    small = {name: stored.clone().view(getattr(torch, name)) for name in EIGHT_BITS}
    return small | {
        "bool": torch.tensor([True, False, True]),
        "uint64": torch.tensor([1, 2**63], dtype=torch.uint64),
        "uint16": torch.tensor([1, 65535], dtype=torch.uint16),
        "complex": torch.tensor([1 + 2j], dtype=torch.complex64),
        "double": torch.tensor([0.5], dtype=torch.float64),
        "no dimensions": torch.tensor(3.5),
        "no rows": torch.empty(0, 4),
        "no columns": torch.empty(4, 0, 3, dtype=torch.int8),
    }


def _links(directory: Path) -> None:
    """Links, as in the hub's cache."""
    (directory / "blobs").mkdir()
    save_file({"a": numbers(3)}, directory / "blobs" / "0123")
    (directory / "model.safetensors").symlink_to("blobs/0123")


def _read_only(directory: Path) -> None:
    save_file({"a": numbers(3)}, directory / "model.safetensors")
    (directory / "model.safetensors").chmod(0o400)
    directory.chmod(0o500)


A: Final = {"a": numbers(9, 9)}
B: Final = {"b": numbers(3)}

ODD: Final[dict[str, Fill]] = {
    "dtypes and shapes": files(model=_dtypes()),
    "names": files(
        model={"a b": numbers(2), "": numbers(1), "é.模": numbers(3), "x" * 300: A["a"]}
    ),
    "a shard without tensors": files(first=A, second={}),
    "no tensor at all": files(model={}),
    "tensors of no bytes alone": files(model={"none": torch.empty(0)}),
    "an index with more names": files(owners(a="one", b="two", ghost="two"), one=A, two=B),
    "an index with a name twice": files(
        '{"weight_map": {"a": "one.safetensors", "a": "two.safetensors"}}',
        one=A,
        two={"a": numbers(2), "b": numbers(3)},
    ),
    "an index without a name": files(owners(a="one"), one=A | B),
    "an index with owners swapped": files(owners(a="two", b="one"), one=A, two=B),
    "an index with a wrong owner": files(owners(a="two", b="two"), one=A, two=B),
    "a shard of another model": files(owners(a="one"), one=A, another=B),
    "a shard of another model, no index": files(one=A, another=B),
    "an adapter beside it": files(model=A, adapter_model={"lora_A.weight": numbers(2, 2)}),
    "links to blobs": _links,
    "read-only": _read_only,
    "a header in another order": headed(
        {"b": entry("F32", [1], 4, 8), "a": entry("F32", [1], 0, 4)}, struct.pack("<ff", 1, 2)
    ),
    "not aligned": headed(
        {"b": entry("U8", [3], 0, 3), "a": entry("F32", [2], 3, 11)},
        b"abc" + struct.pack("<ff", 1, 2),
    ),
    "numbers of four bits": headed({"a": entry("F4", [4], 0, 2)}, b"ab"),
}

BROKEN: Final[dict[str, tuple[Fill, str]]] = {
    "bytes behind the last tensor": (
        headed({"a": entry("F32", [1], 0, 4)}, bytes(8)),
        "4 trailing bytes",
    ),
    "a link to nowhere": (
        lambda directory: (directory / "model.safetensors").symlink_to("gone"),
        "symbolic link to gone, which does not exist",
    ),
    "a folder with a file's name": (
        lambda directory: (directory / "model.safetensors").mkdir(),
        "is a directory",
    ),
}


@pytest.fixture(scope="module")
def vllm_loaders() -> Any:
    """vLLM's own loader and streamerd's; importing vLLM may raise warnings of its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from vllm.model_executor.model_loader.default_loader import DefaultModelLoader

        from streamer_vllm import loaders

    return DefaultModelLoader, loaders


@pytest.fixture
def read(
    vllm_loaders: Any, daemon: DaemonProcess, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Path, str], dict[str, Any]]:
    """The tensors that a loader hands to a model from a folder; the loader is `stock`, or
    streamerd's in a mode.
    """
    from vllm.config.load import LoadConfig

    stock, loaders = vllm_loaders
    monkeypatch.setattr(loaders, "unwanted_weights", lambda *_: None)

    def read_by(directory: Path, how: str) -> dict[str, Any]:
        place = SimpleNamespace(model=str(directory), model_weights="", revision=None)
        if how == "stock":
            loader = stock(LoadConfig(use_tqdm_on_load=False))
        else:
            extra = {"mode": how, "socket": daemon.socket}
            config = LoadConfig(
                load_format="runai_streamer",
                model_loader_extra_config=extra,
                use_tqdm_on_load=False,
            )
            loader = loaders.UnshardedLoader(config)
        weights = loader.get_all_weights(place, nn.Module())
        return {name: _content(tensor) for name, tensor in weights}

    return read_by


def _content(tensor: torch.Tensor) -> tuple[torch.dtype, list[int], bytes]:
    stored = tensor.contiguous().reshape(-1).view(torch.uint8).numpy() if tensor.numel() else b""
    return tensor.dtype, list(tensor.shape), bytes(stored)


@pytest.mark.parametrize("name", ODD)
def test_as_vllms_own_loader(
    name: str, tmp_path: Path, read: Callable[[Path, str], dict[str, Any]]
) -> None:
    directory = tmp_path / f"{name} é"
    directory.mkdir()
    ODD[name](directory)
    expected = read(directory, "stock")
    assert read(directory, "direct") == expected
    assert read(directory, "required") == expected


@pytest.mark.parametrize("name", BROKEN)
def test_refused_as_vllms_own_loader_refuses(
    name: str, tmp_path: Path, read: Callable[[Path, str], dict[str, Any]]
) -> None:
    """The error has words of this project, which name the file and the fault."""
    from streamer_client import StreamerError

    fill, words = BROKEN[name]
    fill(tmp_path)
    with pytest.raises(Exception):  # noqa: B017, PT011  vLLM's own words
        read(tmp_path, "stock")
    for mode in ("direct", "required"):
        with pytest.raises(StreamerError, match=words) as told:
            read(tmp_path, mode)
        assert "model.safetensors" in str(told.value)

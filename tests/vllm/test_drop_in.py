"""A drop-in: streamerd's loaders have every method of the stock loaders.

Whole loaders load small modules, without an engine.

The modules are not vLLM's, so that a test takes milliseconds: tests check which file is read, and
what is reported or refused.
"""

from __future__ import annotations

import importlib
import json
import logging
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

Load = Callable[..., Any]

INHERITED = {"save_model", "create_model", "load_model", "get_external_weight_memory"}
"""Methods that do not read weights themselves."""


@pytest.fixture(scope="module")
def loaders() -> Any:
    """The module with the loaders; importing vLLM may raise warnings of its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importlib.import_module("vllm.distributed")
        return importlib.import_module("streamer_vllm.loaders")


@pytest.mark.parametrize("name", ["UnshardedLoader", "ShardedLoader"])
def test_what_the_stock_loader_offers_reads_through_ours(loaders: Any, name: str) -> None:
    """A method that a later vLLM adds fails here until somebody has decided about it."""
    ours = getattr(loaders, name)
    stock = ours.__mro__[2]
    assert stock.__module__.startswith("vllm.")
    names = [name for name in dir(stock) if not name.startswith("_")]
    public = {name for name in names if callable(getattr(stock, name))}
    assert {one for one in public if getattr(ours, one) is getattr(stock, one)} <= INHERITED


class Taking(nn.Module):
    """A model of one fused layer, as vLLM has them: one parameter from three stored projections."""

    packed_modules_mapping = {"qkv_proj": ["q_proj", "k_proj", "v_proj"]}  # noqa: RUF012  vLLM's

    def __init__(self, layers: int = 2) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.ModuleDict({"qkv_proj": nn.Linear(2, 6, bias=False)}) for _ in range(layers)
        )
        self.norm = nn.Linear(2, 2, bias=False)

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        loaded = set()
        parameters = dict(self.named_parameters())
        for name, tensor in weights:
            own, rows = name, slice(None)
            for place, part in enumerate(self.packed_modules_mapping["qkv_proj"]):
                if part in name:
                    own, rows = name.replace(part, "qkv_proj"), slice(2 * place, 2 * place + 2)
            parameters[own].data[rows].copy_(tensor)
            loaded.add(own)
        return loaded


def tensors(value: float = 1.0) -> dict[str, torch.Tensor]:
    names = [f"layers.{layer}.{part}_proj.weight" for layer in (0, 1) for part in "qkv"]
    return {name: torch.full((2, 2), value) for name in (*names, "norm.weight")}


def store(path: Path, stored: dict[str, torch.Tensor]) -> None:
    from safetensors.torch import save_file

    path.parent.mkdir(exist_ok=True)
    save_file(stored, path)


@pytest.fixture
def load(loaders: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Loads the files in `tmp_path`, by default without a daemon and as a whole checkpoint."""
    from vllm.config.load import LoadConfig

    from streamer_vllm.sharding.pattern import Place

    monkeypatch.setattr(loaders, "current_place", lambda: Place(0, 1))
    monkeypatch.setattr(loaders, "unwanted_weights", lambda *_: None)
    monkeypatch.setattr(logging.getLogger("vllm"), "propagate", True)

    def loaded(module: Any, sharded: bool = False, runner: str = "generate", **extra: Any) -> Any:
        config = LoadConfig(
            load_format="runai_streamer_sharded" if sharded else "runai_streamer",
            model_loader_extra_config={"mode": "direct", **extra},
            use_tqdm_on_load=False,
        )
        model = SimpleNamespace(
            model=str(tmp_path),
            model_weights="",
            revision=None,
            quantization=None,
            runner_type=runner,
        )
        loader = (loaders.ShardedLoader if sharded else loaders.UnshardedLoader)(config)
        loader.load_weights(module, model)
        return loader, model

    return loaded


def test_all_weights_again_as_a_reload_asks_for_them(tmp_path: Path, load: Load) -> None:
    store(tmp_path / "model.safetensors", tensors())
    module = Taking()
    loader, model = load(module)
    with torch.no_grad():
        module.norm.weight.fill_(7)
    assert module.load_weights(loader.get_all_weights(model, module)) == set(
        dict(module.named_parameters())
    )
    assert all(parameter.eq(1).all() for parameter in module.parameters())


def test_the_index_decides_between_copies_and_reaches_into_folders(
    tmp_path: Path, load: Load
) -> None:
    store(tmp_path / "base.safetensors", tensors())
    store(tmp_path / "sub" / "overlay.safetensors", {"norm.weight": torch.full((2, 2), 5.0)})
    for owner, value in (("./base.safetensors", 1), ("sub/overlay.safetensors", 5)):
        owners = dict.fromkeys(tensors(), "base.safetensors") | {"norm.weight": owner}
        owners["unused"] = "sub/overlay.safetensors"
        index = json.dumps({"weight_map": owners})
        (tmp_path / "model.safetensors.index.json").write_text(index)
        module = Taking()
        load(module)
        assert module.norm.weight.eq(value).all()


@pytest.mark.parametrize("name", ["layers.1.k_proj.weight", "norm.weight"])
def test_a_missing_weight_is_told_and_with_strict_refused(
    tmp_path: Path, load: Load, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    from streamer_client import CorruptCheckpoint

    stored = tensors()
    del stored[name]
    store(tmp_path / "model.safetensors", stored)
    with pytest.raises(CorruptCheckpoint, match=name):
        load(Taking(), strict=True)
    try:
        load(Taking())
    except ValueError as error:
        # vLLM itself checks a module that is not one of its layers.
        assert "norm.weight" in str(error)  # noqa: PT017
    told = [text for text in caplog.messages if "event=missing_weights" in text]
    assert told
    assert all(name in text for text in told)


def test_nothing_is_told_of_a_whole_checkpoint(
    tmp_path: Path, load: Load, caplog: pytest.LogCaptureFixture
) -> None:
    store(tmp_path / "model.safetensors", tensors())
    load(Taking(), strict=True)
    assert "missing_weights" not in caplog.text


def test_a_draft_model_is_read_as_its_own_folder_is(tmp_path: Path, load: Load) -> None:
    """vLLM loads the draft model with the load format of its target."""
    store(tmp_path / "model.safetensors", tensors())
    draft = Taking()
    load(draft, sharded=True, runner="draft")
    assert all(parameter.eq(1).all() for parameter in draft.parameters())
    (tmp_path / "model.safetensors").unlink()
    store(tmp_path / "model-rank-0-part-0.safetensors", dict(draft.state_dict()))
    again = Taking()
    load(again, runner="draft")
    assert all(parameter.eq(1).all() for parameter in again.parameters())


def test_files_of_more_ranks_are_refused(tmp_path: Path, load: Load) -> None:
    from streamer_client import ConfigError

    for rank in (0, 1):
        store(tmp_path / f"model-rank-{rank}-part-0.safetensors", dict(Taking().state_dict()))
    with pytest.raises(ConfigError, match="more than the 1 tensor-parallel ranks"):
        load(Taking(), sharded=True)


def test_the_cpu_platform_refuses_to_sleep(loaders: Any) -> None:
    """Because of this, `test_every_kind.py` itself discards parameters, and wakes by the calls that
    waking makes. Once this test fails, real sleep belongs there.
    """
    from vllm.platforms import current_platform

    assert loaders
    assert not current_platform.is_sleep_mode_available()


def test_every_symbol_of_the_table_is_in_the_installed_vllm(loaders: Any) -> None:
    from streamer_vllm.versions import installed_version, is_there, lacking

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert lacking(installed_version(), is_there) == []

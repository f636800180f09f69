"""Weights that a model takes from another place: they are as with `auto`, whatever form they have
there.

The modules are not vLLM's, so that a test takes milliseconds; the loader that reads them is vLLM's.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

OWN, OTHER = torch.full((2, 2), 1.0), torch.full((2, 2), 5.0)

Load = Callable[..., Any]


class Joined(nn.Module):
    """A model of two parts, the second of which lies in a place of its own."""

    def __init__(self, source: Any) -> None:
        super().__init__()
        self.body = nn.Linear(2, 2, bias=False)
        self.head = nn.Linear(2, 2, bias=False)
        self.secondary_weights = [source]

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        parameters = dict(self.named_parameters())
        loaded = set()
        for name, tensor in weights:
            parameters[name].data.copy_(tensor)
            loaded.add(name)
        return loaded


@pytest.fixture(scope="module")
def stock() -> Any:
    """vLLM's own loader; importing vLLM may raise warnings of its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from vllm.model_executor.model_loader.default_loader import DefaultModelLoader

        import streamer_vllm.loaders  # noqa: F401

    return DefaultModelLoader


@pytest.fixture
def load(stock: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Loads a model of two parts; `Source` arguments describe the second one."""
    from vllm.config.load import LoadConfig

    from streamer_vllm import loaders

    monkeypatch.setattr(loaders, "unwanted_weights", lambda *_: None)
    monkeypatch.setattr(loaders, "check_weights", lambda *_, **__: None)
    monkeypatch.setattr(logging.getLogger("vllm"), "propagate", True)
    save_file({"body.weight": OWN}, tmp_path / "model.safetensors")
    (tmp_path / "other").mkdir()

    def loaded(strict: bool = False, **source: Any) -> Joined:
        config = LoadConfig(
            load_format="runai_streamer",
            model_loader_extra_config={"mode": "direct", "strict": strict},
            use_tqdm_on_load=False,
        )
        place: Any = SimpleNamespace(
            model=str(tmp_path), model_weights="", revision=None, quantization=None
        )
        model = Joined(stock.Source(revision=None, prefix="head.", **source))
        loaders.UnshardedLoader(config).load_weights(model, place)
        return model

    return loaded


def test_another_folder(load: Load, tmp_path: Path) -> None:
    """The language model of Ultravox is such a part."""
    save_file({"weight": OTHER}, tmp_path / "other" / "model.safetensors")
    model = load(model_or_path=str(tmp_path / "other"))
    assert torch.equal(model.body.weight, OWN)
    assert torch.equal(model.head.weight, OTHER)


def test_a_file_of_another_form(load: Load, tmp_path: Path) -> None:
    """The sparse head of BGE-M3 is such a part."""
    torch.save({"weight": OTHER}, tmp_path / "head.pt")
    model = load(model_or_path=str(tmp_path), allow_patterns_overrides=["head.pt"])
    assert torch.equal(model.head.weight, OTHER)


def test_nothing_there_is_told_and_with_strict_refused(
    load: Load, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from streamer_client import CorruptCheckpoint

    other = str(tmp_path / "other")
    model = load(model_or_path=other)
    assert torch.equal(model.body.weight, OWN)
    told = [text for text in caplog.messages if "event=secondary_weights_missing" in text]
    assert told
    assert all(f"source={other}" in text for text in told)
    with pytest.raises(CorruptCheckpoint, match="cannot be had"):
        load(strict=True, model_or_path=other)

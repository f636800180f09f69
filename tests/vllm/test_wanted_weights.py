"""The weights that a rank asks for follow from vLLM's own rules, as a set of names."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import nn


@pytest.fixture(scope="module")
def plugin() -> Any:
    """The module; importing vLLM may raise warnings of its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stock()
        from streamer_vllm import wanted_weights

    return wanted_weights


NAMES = [
    "layers.0.experts.0.w1.weight",
    "layers.0.experts.1.w1.weight",
    "layers.0.experts.1.w1.weight_scale",
    "layers.0.norm.weight",
    "layers.9.mtp.weight",
]


def stock() -> Any:
    from vllm.model_executor.model_loader.default_loader import DefaultModelLoader

    return DefaultModelLoader


def local_experts(plugin: Any, monkeypatch: pytest.MonkeyPatch, local: set[int] | None) -> None:
    """Within an engine's configuration, have vLLM say which experts are this rank's."""

    def find(self: Any, _config: object) -> None:
        self.local_expert_ids = local

    monkeypatch.setattr(stock(), "_init_ep_weight_filter", find)
    monkeypatch.setattr(plugin, "engine_config", object)


class Model(nn.Module):
    def is_unused_checkpoint_weight(self, name: str) -> bool:
        return ".mtp." in name


CONFIG: Any = None


def test_all_where_nothing_is_left_out(plugin: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    local_experts(plugin, monkeypatch, None)
    assert plugin.unwanted_weights(nn.Module(), CONFIG) is None
    assert plugin.wanted_names(NAMES, lambda _: False) is None


def test_experts_of_other_ranks_are_left_out(plugin: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    local_experts(plugin, monkeypatch, {0})
    unwanted = plugin.unwanted_weights(nn.Module(), CONFIG)
    assert unwanted is not None
    assert plugin.wanted_names(NAMES, unwanted) == set(NAMES) - {NAMES[1]}, (
        "scales of all are wanted"
    )


def test_weights_that_the_model_ignores_are_left_out(
    plugin: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    local_experts(plugin, monkeypatch, None)
    unwanted = plugin.unwanted_weights(Model(), CONFIG)
    assert unwanted is not None
    assert plugin.wanted_names(NAMES, unwanted) == set(NAMES[:4])
    local_experts(plugin, monkeypatch, {1})
    both = plugin.unwanted_weights(Model(), CONFIG)
    assert both is not None
    assert plugin.wanted_names(NAMES, both) == set(NAMES[1:4])


def test_a_vllm_that_does_not_tell(plugin: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(stock(), "_init_ep_weight_filter")
    monkeypatch.setattr(plugin, "engine_config", object)
    assert plugin.unwanted_weights(nn.Module(), CONFIG) is None


def test_all_where_vllm_has_set_no_configuration(plugin: Any) -> None:
    """As before 0.27 where an engine loads its weights again; vLLM's filter asks for it."""
    assert plugin.unwanted_weights(nn.Module(), CONFIG) is None


def test_the_device_is_that_of_the_parameters(plugin: Any) -> None:
    assert plugin.device_of(nn.Linear(2, 2)) == torch.device("cpu")
    assert plugin.device_of(nn.Module()) == torch.device("cpu")

"""Whether a rank fetches slices depends on its options, its device and the number of ranks.

`test_slices.py` tests the slices themselves. These tests run without an engine and without a GPU.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, Final

import pytest
import torch
from torch import nn

TENSORS: Final = "tensors"
SLICES: Final = "slices"


@pytest.fixture(scope="module")
def plugin() -> Any:
    """The module; importing vLLM may raise warnings of its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from streamer_vllm import slices

    return slices


class Asked:
    """A checkpoint that notes the requests to it."""

    def __init__(self) -> None:
        self.what: list[tuple[Any, ...]] = []

    def tensors(self, _device: torch.device, _names: object) -> Iterator[Any]:
        self.what.append((TENSORS,))
        return iter(())

    @contextmanager
    def slices(
        self, _device: torch.device, _names: object, *, small_bytes: int, place: Any
    ) -> Iterator[Iterator[Any]]:
        self.what.append((SLICES, small_bytes, place))
        yield iter(())


def decided(
    plugin: Any,
    monkeypatch: pytest.MonkeyPatch,
    *,
    tensor: int = 1,
    pipeline: int = 1,
    device: str = "cuda",
    **given: Any,
) -> tuple[Any, ...]:
    """The requests that the last of this many ranks makes to a checkpoint."""
    from streamer_vllm.options import parse_options

    group = SimpleNamespace(rank_in_group=tensor - 1, world_size=tensor)
    monkeypatch.setattr(plugin, "get_tp_group", lambda: group)
    monkeypatch.setattr(plugin, "get_pp_group", lambda: SimpleNamespace(world_size=pipeline))
    monkeypatch.setattr(plugin, "device_of", lambda _: torch.device(device))
    monkeypatch.delenv(plugin.ON_CPU_ENV, raising=False)
    checkpoint, options = Asked(), parse_options(given, {}, sharded=False)
    model: Any = nn.Linear(2, 2)
    asked: Any = checkpoint
    with plugin.weights_of(asked, model, None, options) as weights:
        assert list(weights) == []
    (what,) = checkpoint.what
    return what


def test_one_rank_takes_whole_tensors_as_with_off(
    plugin: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A single rank keeps every tensor whole, so `auto` costs it nothing, not even lazy tensors."""
    assert decided(plugin, monkeypatch) == (TENSORS,)
    assert decided(plugin, monkeypatch, slices="off") == (TENSORS,)


@pytest.mark.parametrize(("tensor", "pipeline", "place"), [(2, 1, (1, 2)), (4, 2, (3, 4))])
def test_a_rank_of_several_takes_slices(
    plugin: Any, monkeypatch: pytest.MonkeyPatch, tensor: int, pipeline: int, place: tuple[int, int]
) -> None:
    what = decided(plugin, monkeypatch, tensor=tensor, pipeline=pipeline)
    assert what == (SLICES, plugin.SMALL_BYTES, place)


def test_a_stage_of_one_rank_takes_what_it_asks_for_whole(
    plugin: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipeline stage never asks for the tensors of other stages, so it does not fetch them."""
    what = decided(plugin, monkeypatch, pipeline=2)
    assert what == (SLICES, plugin.SMALL_BYTES, None)


@pytest.mark.parametrize("how", [{"device": "cpu"}, {"slices": "off"}])
def test_whole_tensors_where_slices_gain_nothing_or_are_not_wanted(
    plugin: Any, monkeypatch: pytest.MonkeyPatch, how: dict[str, Any]
) -> None:
    """On the CPU tensors are views of the slabs."""
    assert decided(plugin, monkeypatch, tensor=2, **how) == (TENSORS,)

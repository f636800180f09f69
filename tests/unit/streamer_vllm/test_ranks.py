"""A rank's numbers and label, by which the engines of one node differ."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from streamer_vllm.ranks import data_parallel_rank, expert_parallel, global_rank, label


def engine(monkeypatch: pytest.MonkeyPatch, **parallel: object) -> None:
    sizes = {"data_parallel_size": 1, "data_parallel_rank": 0, "enable_expert_parallel": False}
    config = SimpleNamespace(
        model_config=SimpleNamespace(model="/models/llama/"),
        parallel_config=SimpleNamespace(**sizes | parallel),
        instance_id="ab12c",
    )
    module = SimpleNamespace(get_current_vllm_config_or_none=lambda: config)
    monkeypatch.setitem(sys.modules, "vllm.config", module)


def test_outside_of_an_engine_a_process_is_rank_0(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "vllm.config", raising=False)
    assert (global_rank(), data_parallel_rank(), label()) == (0, 0, "rank 0")
    assert not expert_parallel()


def test_a_label_names_model_rank_and_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    engine(monkeypatch)
    assert label() == "llama rank 0 engine ab12c"


def test_data_parallel_engines_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    engine(monkeypatch, data_parallel_size=2, data_parallel_rank=1, enable_expert_parallel=True)
    assert label() == "llama dp 1 rank 0 engine ab12c"
    assert data_parallel_rank() == 1
    assert expert_parallel()

"""Names that a checkpoint should have, because names beside them exist."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch")

from streamer_client.contract.errors import CorruptCheckpoint
from streamer_vllm.missing_weights import check_weights, missing_siblings, told_by_a_holder

PACKED = {"qkv_proj": ["q_proj", "k_proj", "v_proj"], "gate_up_proj": ["gate_proj", "up_proj"]}


def attention(layer: int, parts: str = "qkvo") -> set[str]:
    return {f"model.layers.{layer}.self_attn.{part}_proj.weight" for part in parts}


def test_nothing_is_missing_of_a_whole_checkpoint() -> None:
    assert missing_siblings(attention(0) | attention(1), PACKED) == []


def test_a_part_of_a_fused_parameter() -> None:
    assert missing_siblings(attention(0) | attention(1, "kvo"), PACKED) == [
        "model.layers.1.self_attn.q_proj.weight"
    ]


def test_a_part_that_no_layer_has_belongs_to_none() -> None:
    assert missing_siblings(attention(0, "qko") | attention(1, "qko"), PACKED) == []


def test_an_expert_and_a_weight_of_one() -> None:
    experts = {
        f"model.layers.0.mlp.experts.{number}.{name}.weight"
        for number in range(4)
        for name in ("gate_proj", "up_proj", "down_proj")
    }
    gone = {
        "model.layers.0.mlp.experts.3.down_proj.weight",
        *(name for name in experts if ".experts.1." in name),
    }
    assert missing_siblings(experts - gone, PACKED) == sorted(gone)


@pytest.mark.parametrize("number", ["999999", "9" * 5000, "\u0663"])
def test_a_file_may_name_any_number_of_an_expert(number: str) -> None:
    names = {f"m.experts.{each}.up.weight" for each in ("0", "1", number)}
    assert missing_siblings(names, {}) == []


def test_experts_whose_names_are_told_without_the_module_that_has_them() -> None:
    """The experts of vLLM 0.30 have such names.

    A parameter whose own name is not reported stays missing.
    """
    held = {f"m.0.mlp.experts.routed_experts.{name}" for name in ("w13_weight", "w2_weight")}
    others = {"m.0.mlp.gate.weight", "m.1.mlp.experts.routed_experts.w13_weight", "norm.weight"}
    told = {"m.0.mlp.experts.w13_weight", "m.0.mlp.experts.w2_weight"}
    assert told_by_a_holder(told, held | others) == held
    assert told_by_a_holder(set(), held | others) == set()


def quantised(layer: int, parts: str = "qkv") -> set[str]:
    owners = [f"model.layers.{layer}.self_attn.{part}_proj" for part in parts]
    return {f"{owner}.{last}" for owner in owners for last in ("qweight", "scales")}


def check_quantised(stored: set[str], *, strict: bool) -> None:
    model: Any = SimpleNamespace(packed_modules_mapping=PACKED)
    check_weights(model, None, stored, source="here", quantized=True, strict=strict)


def test_a_part_of_a_quantised_model(caplog: pytest.LogCaptureFixture) -> None:
    """vLLM's own loader does not report missing weights of a quantised model."""
    stored = quantised(0) | quantised(1, "qv")
    gone = "model.layers.1.self_attn.k_proj.qweight"
    check_quantised(stored, strict=False)
    assert gone in caplog.text
    with pytest.raises(CorruptCheckpoint, match=f"1 weights of the model: {gone}"):
        check_quantised(stored, strict=True)


def test_a_scale_that_some_layers_lack_is_not_missed(caplog: pytest.LogCaptureFixture) -> None:
    whole = quantised(0) | quantised(1)
    check_quantised(whole - {"model.layers.1.self_attn.k_proj.scales"}, strict=True)
    assert not caplog.text

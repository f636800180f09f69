"""Names that a checkpoint should have since their siblings are there."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

from streamer_vllm.missing_weights import missing_siblings

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

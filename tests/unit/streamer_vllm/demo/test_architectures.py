"""The checkpoints of the demo's small models."""

from __future__ import annotations

import pytest

from streamer_vllm.demo.architectures import KINDS, SIZES, Kind, hf_config, weights

TINY = SIZES["tiny"]


def shapes(kind: Kind) -> dict[str, tuple[int, ...]]:
    return {weight.name: weight.shape for weight in weights(kind, TINY, 258)}


@pytest.mark.parametrize("kind", KINDS)
def test_names_are_unique_and_scales_are_not_zero(kind: Kind) -> None:
    planned = list(weights(kind, TINY, 258))
    assert len({weight.name for weight in planned}) == len(planned)
    assert all(weight.scale > 0 for weight in planned)


def test_a_tied_model_has_no_head() -> None:
    assert shapes("llama").keys() - shapes("tied").keys() == {"lm_head.weight"}
    assert hf_config("tied", TINY, 258)["tie_word_embeddings"] is True


def test_a_mixture_has_its_experts() -> None:
    found = {name.split(".")[5] for name in shapes("qwen3-moe") if ".experts." in name}
    assert found == {str(expert) for expert in range(TINY.experts)}
    assert shapes("qwen3-moe")["model.layers.0.mlp.gate.weight"] == (TINY.experts, TINY.hidden)


def test_the_sizes_are_a_few_to_a_few_hundred_megabytes() -> None:
    def megabytes(size: str) -> float:
        total = 0
        for weight in weights("llama", SIZES[size], 258):
            count = 1
            for width in weight.shape:
                count *= width
            total += 2 * count
        return total / 1e6

    assert 2 < megabytes("tiny") < 10
    assert 100 < megabytes("small") < 200

"""The cuts of earlier layers foretell the cuts of later layers, and of nothing else."""

from __future__ import annotations

import pytest

from streamer_client.contract.safetensors.catalog import TensorEntry
from streamer_client.copy.cut import Cut, Dimension
from streamer_client.tensors import foretelling
from streamer_client.tensors.foretelling import Foretelling, RankPlace, kind_of, likely_cut

FIRST, SECOND = Cut(0, 100, ()), Cut(100, 100, ())


def entry(name: str, shape: tuple[int, ...] = (10, 20), dtype: str = "BF16") -> TensorEntry:
    return TensorEntry(name, dtype, shape, 0, 400)


def up(layer: int) -> TensorEntry:
    return entry(f"model.layers.{layer}.mlp.up_proj.weight")


def test_nothing_is_known_at_first() -> None:
    assert Foretelling().guess(up(0)) is None


def test_the_same_weight_of_the_next_layer_is_cut_alike() -> None:
    told = Foretelling()
    told.was_cut(0, up(0), FIRST)
    told.was_cut(0, up(0), SECOND)
    told.was_cut(0, up(0), FIRST)
    assert told.guess(up(1)) == (FIRST, SECOND)
    assert told.guess(up(77)) == (FIRST, SECOND)


@pytest.mark.parametrize(
    "other",
    [
        entry("model.layers.1.mlp.gate_proj.weight"),
        entry("model.layers.1.mlp.up_proj.weight", (20, 10)),
        entry("model.layers.1.mlp.up_proj.weight", dtype="F16"),
        entry("visual.layers.1.mlp.up_proj.weight"),
    ],
)
def test_another_kind_of_tensor_is_not_foretold(other: TensorEntry) -> None:
    told = Foretelling()
    told.was_cut(0, up(0), FIRST)
    assert told.guess(other) is None


def test_the_latest_layer_counts() -> None:
    told = Foretelling()
    told.was_cut(0, up(0), FIRST)
    told.was_cut(1, up(1), SECOND)
    assert told.guess(up(2)) == (SECOND,)


def test_a_tensor_that_nobody_wanted_foretells_that_nobody_will() -> None:
    told = Foretelling()
    told.was_cut(0, up(0), FIRST)
    told.was_left(0, up(0))
    assert told.guess(up(1)) == (FIRST,)
    told.was_left(1, up(1))
    assert told.guess(up(2)) == ()
    # The tensor is cut after its turn, as by a loader that collects its weights first.
    told.was_cut(1, up(1), SECOND)
    assert told.guess(up(2)) == (SECOND,)


def test_experts_are_kinds_of_their_own_and_layers_are_not() -> None:
    def expert(layer: int, number: int) -> TensorEntry:
        return entry(f"layers.{layer}.experts.{number}.w1")

    assert kind_of(expert(0, 3)) == kind_of(expert(5, 3))
    assert kind_of(expert(0, 3)) != kind_of(expert(0, 4))
    assert kind_of(entry("h2o.w1")).name == "h2o.w1"


def test_what_is_learned_late_does_not_count_for_more_than_what_is_newer() -> None:
    told = Foretelling()
    told.was_cut(1, up(1), SECOND)
    told.was_left(0, up(0))
    told.was_cut(0, up(0), FIRST)
    assert told.guess(up(2)) == (SECOND,)


def test_of_one_tensor_a_bounded_number_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foretelling, "MOST_CUTS", 3)
    told = Foretelling()
    cuts = [Cut(start, 1, ()) for start in range(10)]
    for cut in cuts:
        told.was_cut(0, up(0), cut)
    assert told.guess(up(1)) == tuple(cuts[:3])


def test_the_place_of_a_rank_foretells_the_first_tensor_of_a_kind_alone() -> None:
    told = Foretelling(RankPlace(1, 2))
    assert told.guess(up(0)) == (Cut(200, 200, ()),)
    assert told.guess(up(0)) == (Cut(200, 200, ()),)
    assert told.guess(up(1)) is None
    told.was_cut(0, up(0), FIRST)
    assert told.guess(up(1)) == (FIRST,)


def test_weights_whose_outputs_are_summed_are_cut_along_their_inputs() -> None:
    down = entry("layers.0.mlp.down_proj.weight")
    assert likely_cut(down, RankPlace(3, 4)) == Cut(30, 10, (Dimension(10, 40),))


@pytest.mark.parametrize("shape", [(), (20,), (10, 5, 4), (9, 20), (0, 20)])
def test_what_cannot_be_shared_out_is_not_guessed(shape: tuple[int, ...]) -> None:
    stop = 0 if 0 in shape else 360
    one = TensorEntry("layers.0.up_proj.weight", "BF16", shape, 0, stop)
    assert likely_cut(one, RankPlace(0, 4)) is None


@pytest.mark.parametrize(
    "name",
    [
        "layers.0.mlp.down_proj.weight",  # 8 ranks cannot share its 20 inputs evenly
        "layers.0.mlp.experts.0.up_proj.weight",
        "layers.0.attn.qkv_proj.weight",
        "layers.0.mlp.up_proj.qweight",
    ],
)
def test_a_weight_that_may_be_cut_otherwise_is_not_guessed(name: str) -> None:
    assert likely_cut(entry(name), RankPlace(0, 8)) is None

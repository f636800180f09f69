"""Every kind of model, loaded in every way: each is bit for bit as the stock loaders leave it.

The harness only loads. The tests compare each rank's parameters and buffers, right after loading
and in the form for the kernels: with those of `auto` for the whole checkpoint, and with those of
`sharded_state` for shards. `make test-vllm-full` has four ranks.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from streamer_vllm.versions import NEWEST_TRIED, OLDEST, installed_version, parsed
from tests.support.daemon import DaemonProcess
from tests.vllm.loading.job import Engine
from tests.vllm.loading.kinds import KINDS, online_is_lacking
from tests.vllm.loading.runs import Found, Run

ENGINES = (
    Engine("data", ("experts", "dense"), data_parallel=True),
    Engine("tensor", tuple(KINDS), wrong={"dense": "data"}, damaged=("dense",)),
    Engine(
        "expert",
        ("experts",),
        arguments={"enable_expert_parallel": True},
        wrong={"experts": "tensor"},
    ),
    Engine("fewer", ("tied",), data_parallel=True, wrong={"tied": "tensor"}),
)
LACKING = online_is_lacking()
PLACES = tuple(
    pytest.param(
        engine.name,
        kind,
        id=f"{engine.name}-{kind}",
        marks=pytest.mark.skipif(KINDS[kind].online and bool(LACKING), reason=LACKING),
    )
    for engine in ENGINES[:3]
    for kind in engine.kinds
)
SHARDED_PLACES = tuple(
    place
    for place in PLACES
    if place.values[0] != "data" and not KINDS[str(place.values[1])].online
)
AGAIN = ("reloaded", "from-caller", "other-path", "other-path-again")
RELOADED_SINCE = {
    ("tensor", "gptq"): (0, 30),
    ("tensor", "lora"): (0, 28),
    ("expert", "experts"): (0, 28),
}
"""The versions from which vLLM itself loads weights again. Before, it counts GPTQ's group indices
for each of q, k and v, which share them, and takes the layer to be complete before its last scales
came; it seeks layers that LoRA wraps by the checkpoint's names; and it finds an expert's parameter
without a loader. What it says of that is compared."""
EMPTY = re.compile(r" \[0\b| meta$")
"""The digest of a tensor that has no bytes, which says nothing about what was loaded."""

Runs = Callable[[int], Run]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, daemon: DaemonProcess) -> Runs:
    """The run with this many ranks, made when the first test asks for it."""
    made: dict[int, Run] = {}
    environment = {"STREAMERD_MODE": "required", "STREAMERD_SOCKET": daemon.socket}

    def run(ranks: int) -> Run:
        if ranks not in made:
            directory = tmp_path_factory.mktemp(f"ranks-{ranks}")
            made[ranks] = Run(directory, ENGINES, ranks, environment)
        return made[ranks]

    return run


RANKS = pytest.mark.parametrize("ranks", [2, pytest.param(4, marks=pytest.mark.full)])


@RANKS
@pytest.mark.parametrize(("engine", "kind"), PLACES)
def test_the_whole_checkpoint(runs: Runs, ranks: int, engine: str, kind: str) -> None:
    for found in runs(ranks).of(engine, kind):
        for stage in ("loaded", "ready"):
            assert_same(found, f"runai_streamer/{stage}", f"auto/{stage}")


@RANKS
@pytest.mark.parametrize(("engine", "kind"), PLACES)
def test_loading_again(runs: Runs, ranks: int, engine: str, kind: str) -> None:
    """After sleep at level 2, parameters have no content; each reload begins with such ones."""
    for found in runs(ranks).of(engine, kind):
        if (parsed(installed_version()) or NEWEST_TRIED) < RELOADED_SINCE.get(
            (engine, kind), OLDEST
        ):
            assert found["runai_streamer/reloaded"] == found["auto/reloaded"]
            continue
        for stage in AGAIN:
            assert_same(found, f"runai_streamer/{stage}", f"auto/{stage}")
        assert found["auto/other-path"] != found["auto/reloaded"]
        assert found["auto/other-path"] == found["auto/other-path-again"]
        assert found["auto/other-path"] == found["auto/from-caller"]


@RANKS
@pytest.mark.parametrize(("engine", "kind"), SHARDED_PLACES)
def test_shards(runs: Runs, ranks: int, engine: str, kind: str) -> None:
    """Shards give the same as the whole checkpoint would, and are loaded again as the stock loader
    does.
    """
    for found in runs(ranks).of(engine, kind):
        for stage in ("loaded", "ready"):
            assert_same(found, f"runai_streamer_sharded/{stage}", f"sharded_state/{stage}")
            assert_same(found, f"runai_streamer_sharded/{stage}", f"auto/{stage}")
        for load_format in ("runai_streamer_sharded", "sharded_state"):
            assert found[f"{load_format}/reloaded"] == (
                f"NotImplementedError: Model reloading with `{load_format}` format"
            )


@RANKS
@pytest.mark.skipif(bool(LACKING), reason=LACKING)
def test_no_shards_of_what_vllm_quantises_while_it_loads(runs: Runs, ranks: int) -> None:
    """Nobody could load them. Of what is compared for it above, experts are quantised."""
    for found in runs(ranks).of("tensor", "online"):
        assert found["refused"].startswith("ConfigError: vLLM quantises weights while it loads")
        assert any(
            ".experts." in name and "torch.int8" in told
            for name, told in found["auto/loaded"].items()
        )


@RANKS
def test_a_draft_model_of_the_other_form(runs: Runs, ranks: int) -> None:
    """vLLM loads the draft model with the load format of its target, which may be sharded where the
    draft model is not.
    """
    for found in runs(ranks).of("tensor", "draft"):
        for load_format in ("runai_streamer_sharded", "runai_streamer"):
            assert_same(found, f"{load_format}/beside-another", "auto/loaded")


@RANKS
@pytest.mark.parametrize("engine", ["tensor", "expert"])
def test_ranks_hold_different_parts(runs: Runs, ranks: int, engine: str) -> None:
    """This shows that the comparison means something: no two ranks have the same experts."""
    parts = [
        tuple(
            digest
            for name, digest in found["auto/loaded"].items()
            if ".experts." in name and "weight" in name
        )
        for found in runs(ranks).of(engine, "experts")
    ]
    assert len(set(parts)) == ranks
    assert all(parts)


@RANKS
@pytest.mark.parametrize(
    ("engine", "kind", "made", "now"),
    [
        ("tensor", "dense", "tensor-parallel size 1", "{ranks}"),
        ("fewer", "tied", "tensor-parallel size {ranks}", "1"),
        ("expert", "experts", "expert parallelism off", "on"),
    ],
)
def test_shards_for_another_engine(
    runs: Runs, ranks: int, engine: str, kind: str, made: str, now: str
) -> None:
    expected = f"was written for {made} and this engine has {now}; start vLLM with the same"
    for found in runs(ranks).of(engine, kind):
        assert found["wrong"].startswith("ConfigError: ")
        assert expected.format(ranks=ranks) in found["wrong"]


@RANKS
@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (
            "missing-part",
            r"SourceNotFound: .* lacks model-rank-{rank}-part-\d+\.safetensors,",
        ),
        (
            "extra-part",
            r"CorruptCheckpoint: .* holds model-rank-{rank}-part-77\.safetensors,",
        ),
        ("missing-tensor", r"SourceError: .*\S+\.weight"),
        ("another-vllm", r"SourceError: .*\S+\.weight.* \(vLLM 0\.1\.0 wrote these files"),
    ],
)
def test_damaged_shards(runs: Runs, ranks: int, damage: str, expected: str) -> None:
    for rank, found in enumerate(runs(ranks).of("tensor", "dense")):
        told = found[f"damaged/{damage}"]
        assert re.match(expected.format(rank=rank), told), told


def assert_same(found: Found, ours: str, stock: str) -> None:
    """Check that names, forms and bytes are the same."""
    expected: dict[str, Any] = found[stock]
    assert expected
    for stage in (ours, stock):
        assert not isinstance(found[stage], str), f"{stage}: {found[stage]}"
    assert not [name for name, told in expected.items() if EMPTY.search(told)]
    differing = {
        name: (found[ours].get(name), expected.get(name))
        for name in found[ours].keys() | expected.keys()
        if found[ours].get(name) != expected.get(name)
    }
    assert not differing, f"{ours} is not as {stock}"

"""Ranks that fetch slices get the parameters of stock vLLM, and copy no more than their part.

One start of vLLM loads all models one after the other, each with the stock loader and then with
slices.
"""

from __future__ import annotations

import json
import socket
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from tests.support.daemon import DaemonProcess, Daemons
from tests.vllm.loading.kinds import online_is_lacking
from tests.vllm.slice_drafts import DRAFTS
from tests.vllm.starts import Start, Starts
from tests.vllm.test_same_answers import Model, assert_same, through

SMALL_BYTES: Final = 4096
SLICED: Final = ("STREAMERD_SLICES_ON_CPU", str(SMALL_BYTES))
AHEAD_BYTES: Final = 128 << 10
"""Bytes that a rank may copy beyond its part: those foretold of later layers, which a pipeline
stage may not have."""


class Parallel(NamedTuple):
    """The number of ranks over which a model is spread."""

    tensor: int
    pipeline: int = 1


MOST: Final = {Parallel(2): 0.53, Parallel(4): 0.29, Parallel(1, 2): 0.7}
"""The part of the checkpoint's bytes that a rank may copy. A pipeline stage takes its layers, and
perhaps the embedding."""
RESHAPED: Final = {
    ("bloom", Parallel(2)): 0.63,
    ("bloom", Parallel(4)): 0.45,
    ("falcon", Parallel(2)): 0.66,
    ("falcon", Parallel(4)): 0.49,
}
"""Architectures that reshape fused weights before they cut them, so that each rank needs those
whole."""
OWN_NEOX: Final = {("neox", Parallel(2)): 0.67, ("neox", Parallel(4)): 0.51}
"""vLLM's own class for GPT-NeoX, which exists before 0.32, does the same. Here its fused weights
are a third of the checkpoint, so that each of two ranks needs 2/3 of it, and each of four a half.
"""
KINDS: Final = (
    *("experts", "experts, expert parallel", "mixtral", "llama", "llama, loaded again", "tied"),
    *("gpt2", "gemma2", "phi3", "neox", "bert", "bloom", "falcon", "gptq", "awq", "int8"),
)
"""The models, one with experts first: from the first model vLLM decides which groups of ranks there
are."""
FOUR_RANKS: Final = tuple(kind for kind in KINDS if kind not in ("mixtral", "llama, loaded again"))
STAGES: Final = ("experts", "llama", "gpt2")
RARE: Final = (
    "llama4",
    "llama, medusa",
    "llama, eagle",
    "llama, transformers",
    "llama, overridden",
    *([] if online_is_lacking() else ["experts, quantised while loading"]),
)
"""Models that only `make test-vllm-full` loads. Of the libraries of the build for the CPU, only the
one for processors with AVX-512 BF16 has the operator that quantises experts, and none has those for
fp8."""
MORE: Final[dict[str, dict[str, Any]]] = {
    "expert parallel": {"enable_expert_parallel": True},
    "transformers": {"model_impl": "transformers"},
    "quantised while loading": {"quantization": "int8_per_channel_weight_only"},
    "overridden": {"hf_overrides": {"rope_theta": 20000.0}},
}
"""Further arguments of the engine, by the text behind a model's name."""
NAMES: Final = {Parallel(2): KINDS, Parallel(4): FOUR_RANKS, Parallel(1, 2): STAGES}
CASES: Final = [(where, name) for where, names in NAMES.items() for name in names]
IDS: Final = [f"{name}-tp{where.tensor}-pp{where.pipeline}" for where, name in CASES]


class Jobs:
    """Runs one job for all models of a kind of parallelism, and remembers each rank's answers."""

    def __init__(self, directory: Path, starts: Starts, daemon: DaemonProcess) -> None:
        self._directory = directory
        self._starts = starts
        self._daemon = daemon
        self._answers: dict[tuple[Parallel, tuple[str, ...]], list[dict[str, Any]]] = {}

    def __call__(self, parallel: Parallel, names: tuple[str, ...]) -> list[dict[str, Any]]:
        if (parallel, names) not in self._answers:
            self._answers[parallel, names] = self._run(parallel, names)
        return self._answers[parallel, names]

    def _run(self, parallel: Parallel, names: tuple[str, ...]) -> list[dict[str, Any]]:
        directory = self._directory / f"job-{len(list(self._directory.iterdir()))}"
        directory.mkdir()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        job = {
            "cases": [_case(name) for name in names],
            "tensor_parallel": parallel.tensor,
            "pipeline_parallel": parallel.pipeline,
            "port": port,
            "ahead_bytes": AHEAD_BYTES,
            "models": str(self._directory / "models"),
        }
        (directory / "job.json").write_text(json.dumps(job))
        done = self._starts.run(
            *("tests.vllm.slices_job", str(directory / "job.json"), str(directory)),
            **dict([*through(self._daemon), SLICED]),
        )
        ranks = range(parallel.tensor * parallel.pipeline)
        files = [directory / f"rank-{rank}.json" for rank in ranks]
        assert all(file.exists() for file in files), done.output[-6000:]
        return [json.loads(file.read_text()) for file in files]


def _case(name: str) -> dict[str, Any]:
    kind, _, more = name.partition(", ")
    arguments = dict(MORE.get(more, {}))
    if kind == "awq":
        arguments["dtype"] = "float16"
    return {
        "name": name,
        "kind": kind,
        "arguments": arguments,
        "draft": more if more in DRAFTS else "",
        "reload": more == "loaded again",
    }


@pytest.fixture(scope="session")
def jobs(tmp_path_factory: pytest.TempPathFactory, starts: Starts, many_daemons: Daemons) -> Jobs:
    directory = tmp_path_factory.mktemp("slices")
    (directory / "models").mkdir()
    return Jobs(directory, starts, many_daemons.start("--memory-limit=256MiB"))


@pytest.mark.parametrize(("parallel", "name"), CASES, ids=IDS)
def test_parameters_and_bytes(parallel: Parallel, name: str, jobs: Jobs) -> None:
    for rank, answers in enumerate(jobs(parallel, NAMES[parallel])):
        found = answers[name]
        assert "error" not in found, found["error"]
        assert found["parameters"]
        assert (rank, found["differing"], found["differing_reloaded"]) == (rank, [], [])
        share = found["copied"] / found["bytes"]
        assert share <= _most(name, parallel), (rank, share)


def _most(name: str, parallel: Parallel) -> float:
    """The bound of `found["copied"]` by `found["bytes"]`."""
    own = find_spec("vllm.model_executor.models.gpt_neox") is not None
    reshaped = RESHAPED | OWN_NEOX if own else RESHAPED
    return reshaped.get((name, parallel), MOST[parallel])


@pytest.mark.full
@pytest.mark.parametrize("name", RARE)
def test_rare_kinds(name: str, jobs: Jobs) -> None:
    """The bits are the same; the architecture decides how many bytes are copied."""
    for rank, answers in enumerate(jobs(Parallel(2), RARE)):
        found = answers[name]
        assert "error" not in found, found["error"]
        assert found["parameters"]
        assert (rank, found["differing"], found["differing_reloaded"]) == (rank, [], [])
        assert found["copied"] < found["bytes"]


def test_a_whole_engine_answers_as_stock_does(
    model: Model, starts: Starts, daemon: DaemonProcess
) -> None:
    answer = starts(
        Start(
            model("llama"),
            "runai_streamer",
            tensor_parallel_size=2,
            environment=(*through(daemon), SLICED),
        )
    )
    assert_same(answer, starts(Start(model("llama"), tensor_parallel_size=2)))

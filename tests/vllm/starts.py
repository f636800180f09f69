"""Starts vLLM for tests: one process for each configuration, and each configuration once.

A start takes many seconds on two cores, so answers are kept for the session, and tests share them.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.vllm.warm import REPOSITORY, Done, Warm, run_cold

HERE: Final = Path(__file__).parent

BASE_ENVIRONMENT: Final = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "TORCHDYNAMO_DISABLE": "1",
}
"""Variables of every start. Each rank has one thread, so that sums are made in the same order each
time. Nothing is compiled: models are not in any case, and compiling the count of better tokens
beside each log-probability, which no test reads, takes longer than the rest of a start."""
READ_BY_IMPORTS: Final = frozenset({"HF_HOME"})
"""Variables that tests set and that libraries read once."""
JOB: Final = "tests.vllm.vllm_job"


@dataclass(frozen=True)
class Start:
    """One configuration of vLLM."""

    model: str
    load_format: str = "auto"
    action: str = "generate"
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    extra: tuple[tuple[str, object], ...] = ()
    """The value of `model_loader_extra_config`."""
    environment: tuple[tuple[str, str], ...] = ()
    import_path: str = ""
    """A directory to import from before all others."""
    reload_paths: tuple[str, ...] = ()
    """Paths that `reload` loads one after the other; an empty one stands for the model itself."""
    more: str = "{}"
    """Further arguments of the engine, in JSON."""
    adapter: str = ""
    """The folder of a LoRA adapter with which the answers are made."""
    save: bool = False
    """Whether the probe keeps the shards that vLLM's own writer makes."""
    cold: bool = False
    """Whether a fresh interpreter imports vLLM, and vLLM starts one for each rank, as for users."""

    def arguments(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "load_format": self.load_format,
            "tensor_parallel_size": self.tensor_parallel_size,
            "pipeline_parallel_size": self.pipeline_parallel_size,
            "model_loader_extra_config": dict(self.extra),
            "enforce_eager": True,
            "max_model_len": 256,
            "max_num_seqs": 4,
            "seed": 0,
            **json.loads(self.more),
        }

    def may_be_warm(self) -> bool:
        """Whether all settings that vLLM and its libraries read while they are imported are the
        usual ones.
        """
        names = {name for name, _ in self.environment}
        return not (self.cold or self.import_path or names & READ_BY_IMPORTS)


@dataclass(frozen=True)
class Answer:
    """The outcome of one start."""

    returncode: int
    output: str
    digests: dict[str, dict[str, str]]
    """For each rank and parameter, the digest right after loading."""
    saved: Path
    tokens: list[list[int]] = field(default_factory=list)
    logprobs: list[list[float]] = field(default_factory=list)
    """The log-probabilities of the generated tokens."""
    prompt_logprobs: list[list[float]] = field(default_factory=list)
    """The log-probabilities of the prompts' tokens; empty if an adapter answers, see `vllm_job.py`.
    """
    reloaded: list[list[list[int]]] = field(default_factory=list)
    """Tokens after each of `reload_paths`."""
    embeddings: list[list[float]] = field(default_factory=list)
    """The embeddings of a pooling model, one for each prompt."""


class Starts:
    """Runs configurations and remembers their answers.

    Args:
        directory: for jobs, answers and what the probe writes.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._numbers = itertools.count()
        self._answers: dict[Start, Answer] = {}
        self._places = [str(_site(directory / "site")), str(HERE / "probe")]
        self._warm = Warm(directory, with_places(clean_environment(), *self._places))

    def __call__(self, start: Start) -> Answer:
        """The answer of a start that succeeds."""
        if start not in self._answers:
            answer = self.attempt(start)
            assert answer.returncode == 0, f"{start} failed:\n{answer.output[-6000:]}"
            self._answers[start] = answer
        return self._answers[start]

    def attempt(self, start: Start) -> Answer:
        """The answer of a start that may fail; it is never remembered.

        Several threads may ask for cold starts at once.
        """
        own = self._directory / f"start-{next(self._numbers)}"
        digests, saved = own / "digests", own / "saved"
        digests.mkdir(parents=True)
        saved.mkdir()
        job, result = own / "job.json", own / "answer.json"
        asked = {
            "action": start.action,
            "arguments": start.arguments(),
            "adapter": start.adapter,
            "reload_paths": start.reload_paths,
        }
        job.write_text(json.dumps(asked))
        environment = self._environment(start, digests, saved)
        run = self._warm.run if start.may_be_warm() else run_cold
        done = run(JOB, str(job), str(result), environment=environment, directory=own)
        return Answer(
            done.returncode,
            done.output,
            {path.stem: json.loads(path.read_text()) for path in sorted(digests.iterdir())},
            saved,
            **(json.loads(result.read_text()) if result.exists() else {}),
        )

    def _environment(self, start: Start, digests: Path, saved: Path) -> dict[str, str]:
        environment = with_places(clean_environment(), start.import_path, *self._places)
        environment["LOAD_PROBE_DIR"] = str(digests)
        if start.save:
            environment["LOAD_PROBE_SAVE"] = str(saved)
        return environment | dict(start.environment)

    def run(self, module: str, *arguments: str, **environment: str) -> Done:
        """Run another program that uses vLLM."""
        return self._warm.run(module, *arguments, environment=self._own(environment))

    def run_cold(self, module: str, *arguments: str, **environment: str) -> Done:
        """Run another program in an interpreter that has to import vLLM."""
        return run_cold(module, *arguments, environment=self._own(environment))

    def _own(self, more: Mapping[str, str]) -> dict[str, str]:
        return {**with_places(clean_environment(), *self._places), **more}

    def end(self) -> None:
        self._warm.end()


def clean_environment() -> dict[str, str]:
    """This process's environment without variables for the loaders, and with those that
    tests need.
    """
    spoken = ("RUNAI_STREAMER_", "STREAMERD_MODE", "STREAMERD_SOCKET", "AWS_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(spoken)}
    return kept | BASE_ENVIRONMENT


def with_places(environment: Mapping[str, str], *places: str) -> dict[str, str]:
    """An environment by which Python imports from these folders first, and finds these tests."""
    every = [*places, environment.get("PYTHONPATH", ""), str(REPOSITORY)]
    return {**environment, "PYTHONPATH": os.pathsep.join(place for place in every if place)}


def _site(site: Path) -> Path:
    """Make a folder to import from, in which vLLM finds the probe and does not find Run:ai's
    package.

    It has the files that an installed plugin leaves, and a module that imports as one does that is
    not installed.
    """
    info = site / "streamerd_test_probe-0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: streamerd-test-probe\nVersion: 0\n"
    )
    (info / "entry_points.txt").write_text(
        "[vllm.general_plugins]\nstreamerd_test_probe = streamerd_test_probe:register\n"
    )
    (site / "runai_model_streamer.py").write_text("raise ImportError('not installed')\n")
    return site

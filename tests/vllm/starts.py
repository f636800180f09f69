"""Starting vLLM from tests: one subprocess a configuration, each configuration once.

A start takes half a minute on two cores, so answers are kept for the session and tests share them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

HERE: Final = Path(__file__).parent
START_TIMEOUT_S: Final = 600

BASE_ENVIRONMENT: Final = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
}
"""One thread a rank: sums are then made in the same order each time."""


@dataclass(frozen=True)
class Start:
    """One configuration of vLLM."""

    model: str
    load_format: str = "auto"
    action: str = "generate"
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    extra: tuple[tuple[str, object], ...] = ()
    """`model_loader_extra_config`."""
    environment: tuple[tuple[str, str], ...] = ()
    import_path: str = ""
    """A directory to import from before all others."""
    reload_paths: tuple[str, ...] = ()
    """What `reload` loads, one after the other; an empty one is the model itself."""
    more: str = "{}"
    """Further arguments of the engine, in JSON."""
    adapter: str = ""
    """A folder with a LoRA adapter that answers are asked of."""
    save: bool = False
    """Whether the probe keeps the shards that vLLM's own writer makes."""

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


@dataclass(frozen=True)
class Answer:
    """What one start came to."""

    returncode: int
    output: str
    digests: dict[str, dict[str, str]]
    """Rank to parameter to digest, right after loading."""
    saved: Path
    tokens: list[list[int]] = field(default_factory=list)
    logprobs: list[list[float]] = field(default_factory=list)
    """Of the generated tokens."""
    prompt_logprobs: list[list[float]] = field(default_factory=list)
    """Empty where an adapter answers: see `vllm_job.py`."""
    reloaded: list[list[list[int]]] = field(default_factory=list)
    """Tokens after each of `reload_paths`."""
    embeddings: list[list[float]] = field(default_factory=list)
    """Of a pooling model, for each prompt."""


class Starts:
    """Runs configurations and remembers their answers.

    Args:
        directory: for jobs, answers and what the probe writes.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._answers: dict[Start, Answer] = {}
        self._plugins = _probe_distribution(directory / "site")

    def __call__(self, start: Start) -> Answer:
        """The answer of a start that succeeds."""
        if start not in self._answers:
            answer = self.attempt(start)
            assert answer.returncode == 0, f"{start} failed:\n{answer.output[-6000:]}"
            self._answers[start] = answer
        return self._answers[start]

    def attempt(self, start: Start) -> Answer:
        """The answer of a start that may fail; never remembered."""
        own = self._directory / f"start-{len(list(self._directory.iterdir()))}"
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
        done = subprocess.run(
            [sys.executable, str(HERE / "vllm_job.py"), str(job), str(result)],
            env=self._environment(start, digests, saved),
            cwd=own,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=START_TIMEOUT_S,
            check=False,
        )
        return Answer(
            done.returncode,
            done.stdout,
            {path.stem: json.loads(path.read_text()) for path in sorted(digests.iterdir())},
            saved,
            **(json.loads(result.read_text()) if result.exists() else {}),
        )

    def _environment(self, start: Start, digests: Path, saved: Path) -> dict[str, str]:
        environment = clean_environment()
        places = [start.import_path, str(self._plugins), str(HERE / "probe")]
        places.append(environment.get("PYTHONPATH", ""))
        environment |= {
            "PYTHONPATH": os.pathsep.join(place for place in places if place),
            "LOAD_PROBE_DIR": str(digests),
        }
        if start.save:
            environment["LOAD_PROBE_SAVE"] = str(saved)
        return environment | dict(start.environment)


def clean_environment() -> dict[str, str]:
    """This process's environment without what speaks to the loaders, and with what tests need."""
    spoken = ("RUNAI_STREAMER_", "STREAMERD_MODE", "STREAMERD_SOCKET", "AWS_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(spoken)}
    return kept | BASE_ENVIRONMENT


def _probe_distribution(site: Path) -> Path:
    """What an installed plugin leaves behind, so that vLLM finds the probe."""
    info = site / "streamerd_test_probe-0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: streamerd-test-probe\nVersion: 0\n"
    )
    (info / "entry_points.txt").write_text(
        "[vllm.general_plugins]\nstreamerd_test_probe = streamerd_test_probe:register\n"
    )
    return site

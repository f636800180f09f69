"""Runs the harness from a test, and collects its findings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tests.vllm.loading.job import FAILED, HOME, Engine, Job, write_job
from tests.vllm.starts import clean_environment

RUN_TIMEOUT_S: Final = 900
REPOSITORY: Final = Path(__file__).parents[3]

Found = Mapping[str, Any]
"""For each stage, the digests of parameters and buffers, or the text of an error."""


class Run:
    """What one run found, by engine, kind and rank.

    Args:
        engines: which it goes through, in this order.
        environment: how the loaders reach a daemon.
    """

    def __init__(
        self,
        directory: Path,
        engines: Sequence[Engine],
        ranks: int,
        environment: Mapping[str, str],
    ) -> None:
        (directory / HOME).mkdir()
        write_job(Job(tuple(engines), ranks, str(directory)), directory / "job.json")
        done = subprocess.run(
            [sys.executable, "-m", "tests.vllm.loading.program", str(directory / "job.json")],
            env=_environment(directory) | dict(environment),
            cwd=directory,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=RUN_TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-6000:]
        self.output = done.stdout
        self.directory = directory
        self._ranks = [
            json.loads((directory / f"rank-{rank}.json").read_text()) for rank in range(ranks)
        ]

    def of(self, engine: str, kind: str) -> list[Found]:
        """The findings of each rank for a kind that went through all stages."""
        found = [rank[engine][kind] for rank in self._ranks]
        for stages in found:
            assert FAILED not in stages, stages[FAILED]
        return found


def _environment(directory: Path) -> dict[str, str]:
    environment = clean_environment()
    places = [str(REPOSITORY), environment.get("PYTHONPATH", "")]
    return environment | {
        "PYTHONPATH": os.pathsep.join(place for place in places if place),
        "HF_HOME": str(directory / HOME),
        "STREAMERD_SHARD_WRITER": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
    }

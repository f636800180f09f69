"""What a run of the harness is told: engines to load in, kinds of model, and where everything is.

Imports no vLLM: the test writes a job, and the program reads it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

FAILED: Final = "failed"
"""In place of a stage: why a kind came to no end."""
HOME: Final = "home"
"""Folder of the hub's cache, below the run's."""


@dataclass(frozen=True, slots=True)
class Engine:
    """One way to start vLLM, and the kinds that are loaded in it."""

    name: str
    kinds: tuple[str, ...]
    arguments: dict[str, Any] = field(default_factory=dict)
    """For `EngineArgs`."""
    data_parallel: bool = False
    """Whether the ranks are engines of one rank each; else tensor-parallel."""
    wrong: dict[str, str] = field(default_factory=dict)
    """By kind: the engine whose shards are loaded in this one, which has to refuse them."""
    damaged: tuple[str, ...] = ()
    """Kinds whose shards are loaded once more with each damage that there is a name for."""


@dataclass(frozen=True, slots=True)
class Job:
    """One run."""

    engines: tuple[Engine, ...]
    ranks: int
    directory: str

    def model(self, kind: str, which: str = "model") -> Path:
        return Path(self.directory) / "models" / kind / which

    def shards(self, engine: str, kind: str) -> Path:
        return Path(self.directory) / "shards" / engine / kind


def write_job(job: Job, path: Path) -> None:
    path.write_bytes(msgspec.json.encode(asdict(job)))


def read_job(path: Path) -> Job:
    return msgspec.json.decode(path.read_bytes(), type=Job)

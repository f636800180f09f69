"""The job of a run of the harness: engines to load in, kinds of model, and the paths of everything.

Imports no vLLM: the test writes a job, and the program reads it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

FAILED: Final = "failed"
"""The key that stands in place of a stage for the error that ended a kind."""
HOME: Final = "home"
"""The folder of the hub's cache, below the run's folder."""


@dataclass(frozen=True, slots=True)
class Engine:
    """One way to start vLLM, and the kinds that are loaded in it."""

    name: str
    kinds: tuple[str, ...]
    arguments: dict[str, Any] = field(default_factory=dict)
    """Arguments for `EngineArgs`."""
    data_parallel: bool = False
    """Whether the ranks are engines of one rank each; otherwise they are tensor-parallel."""
    wrong: dict[str, str] = field(default_factory=dict)
    """For each kind, the engine whose shards are loaded in this one, which has to refuse them."""
    damaged: tuple[str, ...] = ()
    """Kinds whose shards are loaded once more with each fault of `damage.py`."""


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

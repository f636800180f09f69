"""Loading again in one process: `reload_weights`, also with a path, and twice.

vLLM refuses it for shards, which `test_every_kind.py` compares with the refusal of its own loader.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from tests.support.daemon import DaemonProcess
from tests.vllm.starts import Start, Starts
from tests.vllm.test_same_answers import through

Model = Callable[[str], str]


def test_a_model_reloads_itself_and_another_path(
    model: Model, starts: Starts, daemon: DaemonProcess, tmp_path: Path
) -> None:
    """The tokens after each reload are those of a start with the reloaded checkpoint."""
    from streamer_vllm.demo.model import build_model

    other = tmp_path / "other"
    build_model(str(other), "llama", seed=5)
    shutil.copy(Path(model("llama")) / "config.json", other)
    paths = ("", str(other), model("llama"), model("llama"))
    answers = [
        starts(
            Start(
                model("llama"),
                load_format,
                action="reload",
                environment=through(daemon),
                reload_paths=paths,
            )
        ).reloaded
        for load_format in ("runai_streamer", "auto")
    ]
    assert answers[0] == answers[1]
    itself, another, back, twice = answers[0]
    assert itself == back == twice == starts(Start(model("llama"))).tokens
    assert another != itself

"""Run:ai's own package, where a test finds it, and the files that both are asked about.

It is not part of the test environment, since vLLM would then use it. An environment that has it,
with torch, is named by `RUNAI_PYTHON=/path/to/python`.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from tests.support.checkpoints import random_tensor, write_shard

PYTHON_ENV: Final = "RUNAI_PYTHON"
PACKAGE: Final = "runai_model_streamer"
PROGRAM: Final = Path(__file__).with_name("runai_program.py")


def interpreter() -> str | None:
    """A Python that has the package."""
    if importlib.util.find_spec(PACKAGE) is not None:
        return sys.executable
    return os.environ.get(PYTHON_ENV)


MISSING: Final = f"{PACKAGE} is not at hand: name a Python that has it by {PYTHON_ENV}"


def write_files(directory: Path) -> None:
    """Checkpoints of odd dtypes and sizes, one that is cut short, and what lies beside them."""
    one = {
        "a": random_tensor("F32", (5, 7), 1),
        "empty": ("F32", (0, 3), b""),
        "b": random_tensor("BOOL", (3,), 2),
        "odd": random_tensor("U8", (13,), 3),
        "behind.odd": random_tensor("BF16", (9,), 4),
        "scalar": random_tensor("F64", (), 5),
    }
    two = {
        "a": random_tensor("I64", (2, 2), 6),
        "fp8": random_tensor("F8_E4M3", (4, 4), 7),
        "fp8.other": random_tensor("F8_E5M2", (3,), 8),
        "complex": random_tensor("C64", (2,), 9),
        "u16": random_tensor("U16", (1,), 10),
    }
    (directory / "deep" / "er").mkdir(parents=True)
    write_shard(directory / "one.safetensors", one)
    write_shard(directory / "two.safetensors", two, pad=False)
    whole = (directory / "two.safetensors").read_bytes()
    (directory / "cut.safetensors").write_bytes(whole[:-3])
    (directory / "config.json").write_text("{}")
    (directory / ".hidden.json").write_text("[]")
    (directory / "tokenizer.model").write_bytes(b"\0\1")
    (directory / "deep" / "er" / "more.json").write_text("[1]")


def answers(python: str, module: str, directory: Path | str, **environment: str) -> dict[str, Any]:
    """What the program tells of a module."""
    done = subprocess.run(
        [python, str(PROGRAM), module, str(directory)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    told: dict[str, Any] = json.loads(done.stdout)
    return told

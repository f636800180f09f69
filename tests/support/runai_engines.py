"""Functions of SGLang and vLLM that call Run:ai's package, taken out of their wheels.

The engines are not installed: of each wheel a few modules are put into `.stores/` in the
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
VLLM: Final = "vllm==0.33.0"
MEMBERS: Final = {
    SGLANG: ("sglang/srt/model_loader/weight_utils.py", "sglang/srt/utils/runai_utils.py"),
    VLLM: (
        "vllm/model_executor/model_loader/runai_streamer_loader.py",
        "vllm/model_executor/model_loader/weight_utils.py",
        "vllm/transformers_utils/runai_utils.py",
    ),
}


@functools.cache
def engine_missing(requirement: str) -> str:
    """Why an engine's modules are not there; empty where they are. Fetches them if it can."""
    home = _STORES / requirement
    home.mkdir(parents=True, exist_ok=True)
    with (_STORES / "lock").open("w") as lock, tempfile.TemporaryDirectory() as wheels:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another process's tests may fetch them too
        if all((home / member).exists() for member in MEMBERS[requirement]):
            return ""
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest"]
        try:
            done = subprocess.run(
                [*command, wheels, "--only-binary", ":all:", requirement],
                capture_output=True,
                text=True,
                check=False,
                timeout=240,
            )
        except subprocess.TimeoutExpired:
            return f"the wheel of {requirement} did not come within 240 s"
        if done.returncode:
            return f"the wheel of {requirement} cannot be had: {done.stderr.strip()[-300:]}"
        (wheel,) = Path(wheels).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(home, MEMBERS[requirement])
    return ""


def taken(requirement: str, member: str, namespace: dict[str, Any], *names: str) -> None:
    """Put functions or classes of an engine's module into a namespace that has what they use."""
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

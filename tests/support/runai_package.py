"""Run:ai's own package in a separate folder, and files with which both packages are tested.

The package is not part of the test environment, since vLLM would then use it. Its wheels are put
into `.stores/` in the repository's root on first use; a process that has that folder in its
PYTHONPATH runs Run:ai's code in the test's own interpreter, with the test's torch.
"""

from __future__ import annotations

import fcntl
import functools
import json
import os
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tests.support.checkpoints import random_tensor, write_shard

PACKAGE: Final = "runai_model_streamer"
OURS: Final = "streamer_client.runai"
VERSION: Final = "0.17.0"
SUPPORT: Final = Path(__file__).parent
PROGRAM: Final = SUPPORT / "runai_program.py"
CASES: Final = "tests.support.runai_cases"
CASES_RECORD: Final = SUPPORT / "runai_0_17_cases.json"

_STORES: Final = Path(__file__).parents[2] / ".stores"
_HOME: Final = _STORES / f"runai-{VERSION}"
_WHEELS: Final = (
    f"runai-model-streamer=={VERSION}",
    f"runai-model-streamer-s3=={VERSION}",
    "humanize",
)


@functools.cache
def package_missing() -> str:
    """Why the package is missing; empty if it is there. Installs it if it can."""
    _STORES.mkdir(exist_ok=True)
    with (_STORES / "runai.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests in other processes may install the package too
        if (_HOME / PACKAGE).is_dir():
            return ""
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
        try:
            done = subprocess.run(
                [*command, "--target", str(_HOME), *_WHEELS],
                capture_output=True,
                text=True,
                check=False,
                timeout=240,
            )
        except subprocess.TimeoutExpired:
            return f"{PACKAGE} {VERSION} could not be installed within 240 s; the record stands"
        if done.returncode:
            return f"{PACKAGE} {VERSION} cannot be installed: {done.stderr.strip()[-300:]}"
    return ""


def environment_of(module: str) -> dict[str, str]:
    """The variables with which a process can import one of the two packages."""
    if module != PACKAGE:
        return {}
    path = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": f"{_HOME}:{path}" if path else str(_HOME)}


def write_files(directory: Path) -> None:
    """Write checkpoints of odd dtypes and sizes, a truncated one, and other files beside them."""
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


def write_cases(root: Path) -> None:
    """Write the directory in which `runai_cases.py` runs, or which becomes its bucket."""
    model = root / "m"
    model.mkdir()
    write_files(model)
    one = (model / "one.safetensors").read_bytes()
    damaged = {
        "long": one + b"zz",
        "tiny": b"abc",
        "nothing": b"",
        "garbage": struct.pack("<Q", 20) + b"x" * 100,
        "huge": struct.pack("<Q", 1 << 60) + b"x" * 100,
    }
    for name, content in damaged.items():
        (model / f"{name}.safetensors").write_bytes(content)
    (model / "one.safetensors.bak").write_bytes(b"x")
    for name in ("m2/other.safetensors", "mm/x.json"):
        (root / name).parent.mkdir()
        (root / name).write_bytes(b"1")


def put_cases(root: Path, store: Any, bucket: str) -> None:
    """Put the directory into a bucket, with objects that no directory can hold.

    Args:
        root: the directory that `write_cases` wrote.
        store: an object with a method `put(bucket, key, content)`.
        bucket: name of the bucket.
    """
    for path in root.rglob("*"):
        if path.is_file():
            store.put(bucket, str(path.relative_to(root)), path.read_bytes())
    for key in ("slashes//x.json", "slashes/a//y.json", "slashes/z.json"):
        store.put(bucket, key, b"1")
    for key in ("markers/", "markers/sub/", "markers/w.safetensors/"):
        store.put(bucket, key, b"")
    for key in ("odd/a b+c.json", "odd/ä%20?#&=.safetensors", "odd/[x]*.json"):
        store.put(bucket, key, b"1")
    for key in ("markers/sub/x.json", "markers/v.safetensors"):
        store.put(bucket, key, b"12")


def write_folder_of_weights(root: Path) -> None:
    """Write a folder named like a file of weights, which no bucket can hold."""
    (root / "m" / "folder.safetensors").mkdir()


def answers(module: str, directory: Path | str, **environment: str) -> dict[str, Any]:
    """The output of `runai_program.py` about a module."""
    return run_program([str(PROGRAM), module, str(directory)], module, environment)


def run_program(
    command: Sequence[str], module: str, environment: Mapping[str, str]
) -> dict[str, Any]:
    """The JSON that a program of this interpreter writes about a module."""
    done = subprocess.run(
        [sys.executable, *command],
        env=os.environ | environment_of(module) | dict(environment),
        cwd=SUPPORT.parents[1],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def same(theirs: list[list[str]], ours: list[list[str]]) -> bool:
    """Whether each call answered the same; errors of this project may be of further classes."""
    return len(theirs) == len(ours) and all(map(_same_step, theirs, ours))


def _same_step(theirs: list[str], ours: list[str]) -> bool:
    if theirs == ours:
        return True
    call, answer = theirs
    raised, _, classes = answer.partition(" ")
    our_raised, _, our_classes = ours[1].partition(" ")
    return (
        raised == our_raised == "raises"
        and call == ours[0]
        and set(classes.split()) <= set(our_classes.split())
    )

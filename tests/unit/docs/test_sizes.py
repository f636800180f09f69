"""The sizes that CONTRIBUTING.md promises: a file holds one idea, and a function one step."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[3]
FOLDERS = ("client", "daemon", "vllm_plugin", "tests", "benchmarks", "docs")
MOST_LINES = 400
MOST_LINES_OF_A_FUNCTION = 40
MOST_MODULES = 13
"""The most modules of one folder of the packages; `benchmarks` is a folder of scripts."""


def sources() -> Iterator[Path]:
    for folder in FOLDERS:
        yield from (ROOT / folder).rglob("*.py")


def test_no_file_is_too_long() -> None:
    long = {path.name: count for path in sources() if (count := lines(path)) > MOST_LINES}
    assert not long


def lines(path: Path) -> int:
    return path.read_text().count("\n")


def test_no_function_is_too_long() -> None:
    assert not [
        f"{path.name}:{found.name}"
        for path in sources()
        for found in ast.walk(ast.parse(path.read_text()))
        if isinstance(found, ast.FunctionDef | ast.AsyncFunctionDef)
        and (found.end_lineno or 0) - found.lineno + 1 > MOST_LINES_OF_A_FUNCTION
    ]


def test_no_folder_is_too_wide() -> None:
    packages = (ROOT / "client", ROOT / "daemon", ROOT / "vllm_plugin")
    folders = {path.parent for package in packages for path in package.rglob("*.py")}
    wide = {
        folder.name: count
        for folder in folders
        if (count := len([one for one in folder.glob("*.py") if one.name != "__init__.py"]))
        > MOST_MODULES
    }
    assert not wide

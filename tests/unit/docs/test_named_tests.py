"""Every test that a page in docs/ names, as `tests/.../test_x.py::test_y`, exists."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[3]
PAGES: Final = sorted((ROOT / "docs").glob("*.md"))
NAMED: Final = re.compile(r"(tests/[\w/]+\.py)((?:::\w+)*)")


def _named() -> Iterator[tuple[str, str, str]]:
    for page in PAGES:
        for path, names in NAMED.findall(page.read_text(encoding="utf-8")):
            yield page.name, path, names.removeprefix("::")


@cache
def _tests_of(path: str) -> frozenset[str]:
    """`test_y` and `TestX::test_y` of a file, read and not imported."""
    found = set()
    for node in ast.parse((ROOT / path).read_text(encoding="utf-8")).body:
        inside = node.body if isinstance(node, ast.ClassDef) else [node]
        before = f"{node.name}::" if isinstance(node, ast.ClassDef) else ""
        for each in inside:
            if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef):
                found.add(before + each.name)
    return frozenset(found)


@pytest.mark.parametrize(("page", "path", "name"), sorted(set(_named())))
def test_a_named_test_exists(page: str, path: str, name: str) -> None:
    assert (ROOT / path).is_file(), f"{page} names {path}, which does not exist"
    if name:
        assert name in _tests_of(path), f"{page} names {path}::{name}, which does not exist"


def test_the_page_about_security_names_some() -> None:
    assert sum(page == "security.md" and bool(name) for page, _, name in _named()) > 50

"""The page of versions agrees with the table; names are found in source code as Python would find
them.
"""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from streamer_vllm.versions import SYMBOLS, parsed

DOCS = Path(__file__).parents[3] / "docs"

SOURCE = """
import a.b as c
from d import e
try:
    from f import g
except ImportError:
    g = h = None
class K:
    field: int = 3
    def __init__(self):
        self.set_here: int | None = None
        if self.field:
            self.deeper = 1
    def method(self):
        self.elsewhere = 1
"""


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_vllm_page", DOCS / "make_vllm_page.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "name", ["c", "e", "g", "h", "K", "K.field", "K.set_here", "K.deeper", "K.method"]
)
def test_what_a_module_has(maker: ModuleType, name: str) -> None:
    assert maker.defines(ast.parse(SOURCE), name)


@pytest.mark.parametrize("name", ["a", "x", "K.elsewhere", "K.x", "e.x", "K.method.x"])
def test_names_that_a_source_does_not_define(maker: ModuleType, name: str) -> None:
    assert not maker.defines(ast.parse(SOURCE), name)


def test_the_page_has_each_symbol_with_the_versions_that_the_table_promises() -> None:
    lines = (DOCS / "vllm-versions.md").read_text().splitlines()
    rows = [
        [cell.strip(" *") for cell in line.strip("|").split("|")] for line in lines if "|" in line
    ]
    versions = [parsed(cell) for cell in rows[0][1:-1]]
    told = {row[0]: row[1:-1] for row in rows[2:]}
    assert list(told) == [f"`{symbol.module}` `{symbol.name}`" for symbol in SYMBOLS]
    for symbol in SYMBOLS:
        marks = told[f"`{symbol.module}` `{symbol.name}`"]
        has = [mark == "yes" for mark in marks]
        assert has == [version is not None and version >= symbol.since for version in versions]


def _cells(line: str) -> list[str]:
    return [cell.strip(" *") for cell in line.strip("|").split("|")]

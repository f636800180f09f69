"""docs/troubleshooting.md quotes texts of the code word for word."""

from __future__ import annotations

import ast
import errno
import os
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "troubleshooting.md"
CODE = ("client", "daemon", "vllm_plugin")
FILLED_IN = re.compile(r"\.\.\.|\b(?:PATH|FILE|NAME|N)\b")
"""The marks that stand for a path, a name or a number."""
QUOTED = re.compile(r"`([^`]+)`")
WITH_A_SENTENCE = 3
"""Quotes of at least this many words are texts of the code, and no names or options."""
OF_OTHERS = {
    "avc: denied { use }",
    "No package metadata was found for vllm",
    "Insufficient space in /dev/shm for shared-memory allocation",
    "Permission denied: '/.cache'",
}
"""Texts that the kernel and vLLM print."""


def symptoms() -> list[str]:
    """The texts in the first column of each table."""
    first = [line.split("|")[1] for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    quoted = [text for cell in first for text in QUOTED.findall(cell)]
    return sorted({text for text in quoted if _is_text(text)} - OF_OTHERS)


def _is_text(text: str) -> bool:
    return text.startswith("event=") or len(text.split()) >= WITH_A_SENTENCE


@cache
def texts() -> str:
    """The strings of the code and of the kernel's errors, with `...` in place of values that are
    filled in.
    """
    found = [os.strerror(number) for number in errno.errorcode]
    for folder in CODE:
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.JoinedStr):
                    found.append("".join(map(_part, node.values)))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(node.value)
    return "\n".join(found)


def _part(value: ast.expr) -> str:
    return (
        value.value if isinstance(value, ast.Constant) and isinstance(value.value, str) else "..."
    )


@pytest.mark.parametrize("symptom", symptoms())
def test_the_code_prints_it(symptom: str) -> None:
    for fragment in FILLED_IN.split(symptom):
        assert fragment.strip(" ,:;()") in texts(), symptom


def test_the_page_has_texts_of_every_part() -> None:
    assert len(symptoms()) > 40

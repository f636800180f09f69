"""docs/state.md and docs/delivery.md agree with the transition tables."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[3] / "docs"


@pytest.mark.parametrize(("name", "make"), [("state.md", "page"), ("delivery.md", "delivery_page")])
def test_the_page_is_the_table(name: str, make: str) -> None:
    made = runpy.run_path(str(DOCS / "make_state_page.py"))
    page = (DOCS / name).read_text(encoding="utf-8")
    assert made[make]() == page, "run `make diagrams`"

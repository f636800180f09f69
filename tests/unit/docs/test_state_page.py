"""docs/state.md is what the transition table says."""

from __future__ import annotations

import runpy
from pathlib import Path

DOCS = Path(__file__).parents[3] / "docs"


def test_the_page_is_the_table() -> None:
    made = runpy.run_path(str(DOCS / "make_state_page.py"))
    page = (DOCS / "state.md").read_text(encoding="utf-8")
    assert made["page"]() == page, "run `make diagrams`"

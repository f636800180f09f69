"""The page and the links that an index of packages shows lead to existing places, or
are no links.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[3]
HOME: Final = "https://git.example/a/b"


@pytest.fixture(scope="module")
def setup() -> ModuleType:
    spec = importlib.util.spec_from_file_location("setup", ROOT / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _targets(text: str) -> list[str]:
    return re.findall(r"\]\(([^)]*)\)", text)


def test_every_link_of_the_readme_leads_to_a_file_of_the_tag(setup: ModuleType) -> None:
    readme = (ROOT / "README.md").read_text()
    there = f"{HOME}/blob/v1.2.3/"
    found = _targets(setup.page(readme, "1.2.3", HOME))
    assert len(found) == len(_targets(readme))
    for target in found:
        assert target.startswith(there), target
        assert (ROOT / target.removeprefix(there).partition("#")[0]).is_file(), target


def test_without_an_address_there_is_no_link_and_every_word(setup: ModuleType) -> None:
    page = setup.page("See [the docs](docs/a.md#b) and [pip](https://pip.example/).", "1", "")
    assert page == "See the docs and [pip](https://pip.example/)."
    assert _targets(setup.page((ROOT / "README.md").read_text(), "1", "")) == []
    assert setup.links("1", "") == {}


def test_the_addresses_are_those_of_the_repository(setup: ModuleType) -> None:
    links = setup.links("1.2.3", HOME)
    assert links["Source"] == HOME
    assert all(link.startswith(HOME) for link in links.values())

"""Acting on a module when it is imported: once, whoever imports it, and without importing it."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest

from streamer_vllm.awaited import Awaiting, when_imported

NAME = "awaited_for_a_test"


@pytest.fixture(autouse=True)
def importable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / f"{NAME}.py").write_text("value = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.delitem(sys.modules, NAME, raising=False)


def test_it_acts_after_the_import_and_leaves_nothing_behind() -> None:
    seen: list[int] = []
    before = list(sys.meta_path)
    when_imported(NAME, lambda module: seen.append(module.value))
    assert NAME not in sys.modules
    assert not seen
    module = importlib.import_module(NAME)
    assert seen == [1]
    assert sys.meta_path == before
    assert module.__spec__ is not None
    assert module.__spec__.loader is module.__loader__
    assert type(module.__loader__).__name__ == "SourceFileLoader"
    del sys.modules[NAME]


def test_it_acts_at_once_on_what_is_imported() -> None:
    module = importlib.import_module(NAME)
    seen: list[ModuleType] = []
    when_imported(NAME, seen.append)
    assert seen == [module]
    del sys.modules[NAME]


def test_a_second_call_awaits_no_second_time() -> None:
    seen: list[ModuleType] = []
    when_imported(NAME, seen.append)
    when_imported(NAME, seen.append)
    assert sum(isinstance(finder, Awaiting) for finder in sys.meta_path) == 1
    importlib.import_module(NAME)
    assert len(seen) == 1
    del sys.modules[NAME]


def test_other_imports_pass() -> None:
    when_imported("nothing_of_that_name", lambda module: pytest.fail(f"acted on {module}"))
    importlib.import_module(NAME)
    with pytest.raises(ImportError):
        importlib.import_module("nothing_of_that_name")
    del sys.modules[NAME]

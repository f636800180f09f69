"""The names that are expected in each version of vLLM, and the report about a version that lacks
some.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from streamer_vllm import versions
from streamer_vllm.versions import SYMBOLS, TOLD_ENV, Symbol, is_there, lacking, parsed, usable

UNTIED = "ModelConfig.word_embeddings_untied_by_checkpoint"


def without(*names: str) -> Callable[[Symbol], bool]:
    return lambda symbol: symbol.name not in names


@pytest.mark.parametrize(
    ("text", "version"),
    [("0.28.0", (0, 28)), ("0.33.1.dev3+g12", (0, 33)), ("1.0", (1, 0)), ("unknown", None)],
)
def test_versions(text: str, version: tuple[int, int] | None) -> None:
    assert parsed(text) == version


def test_no_symbol_is_told_of_twice() -> None:
    assert len({symbol.full_name for symbol in SYMBOLS}) == len(SYMBOLS)


def test_what_a_version_never_had_is_not_missed() -> None:
    assert not lacking("0.28.1", without(UNTIED))
    assert [symbol.name for symbol in lacking("0.29.0", without(UNTIED))] == [UNTIED]


def test_of_an_unknown_version_everything_is_expected() -> None:
    assert [symbol.name for symbol in lacking("unknown", without(UNTIED))] == [UNTIED]
    assert [symbol.name for symbol in lacking("0.40.0", without(UNTIED))] == [UNTIED]


def test_what_is_needed_is_missed_in_any_version() -> None:
    missing = lacking("0.1.0", without("BaseModelLoader"))
    assert [symbol.needed for symbol in missing] == [True]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Callable[[], int]:
    """A vLLM of version 0.40; returns the number of warnings so far."""
    monkeypatch.setenv(TOLD_ENV, "")
    monkeypatch.setattr(versions, "installed_version", lambda: "0.40.0")
    monkeypatch.setattr(logging.getLogger("streamer_vllm"), "propagate", True)
    return lambda: sum("event=vllm_lacks version=0.40.0" in text for text in caplog.messages)


def test_an_unknown_newer_one_is_tried_and_told_of_once(
    told: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(versions, "is_there", without("_BAR_FORMAT"))
    assert usable()
    assert usable()
    assert told() == 1


def test_one_that_lacks_what_is_needed_keeps_its_own_loaders(
    told: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(versions, "is_there", without("RunaiModelStreamerLoader"))
    assert not usable()
    assert told() == 1


def test_a_module_that_is_not_there_has_nothing() -> None:
    assert not is_there(Symbol("no_such_module_of_vllm", "x"))

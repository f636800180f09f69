"""docs/status-json.md has every name of the status document, and no other."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from streamer_client.contract.status import ShardState, parse_status

PAGE: Final = (Path(__file__).parents[3] / "docs" / "status-json.md").read_text(encoding="utf-8")
(_JSON,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
SAMPLE: Final[dict[str, Any]] = json.loads(_JSON)


def _names(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        yield from value
        for each in value.values():
            yield from _names(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _names(each)


def test_the_sample_has_every_name_of_the_document_and_no_other() -> None:
    """A name that the page lacks shows with its default value, and a name that only the page has is
    lost.
    """
    assert json.loads(json.dumps(parse_status(SAMPLE).body())) == SAMPLE


def test_every_name_is_explained() -> None:
    explained = set(re.findall(r"`(\w+)(?:\[\])?`", PAGE.replace(_JSON, "")))
    assert set(_names(SAMPLE)) - explained <= {"memory", "sources", "shards", "totals", "waiting"}


def test_every_state_is_explained() -> None:
    assert all(f"`{state}`: " in PAGE for state in ShardState)

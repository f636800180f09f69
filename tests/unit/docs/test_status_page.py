"""docs/status-json.md tells every name that the daemon's status has, and no other."""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from streamerd.answering import status

PAGE: Final = (Path(__file__).parents[3] / "docs" / "status-json.md").read_text(encoding="utf-8")
(_JSON,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
SAMPLE: Final[dict[str, Any]] = json.loads(_JSON)


def _keys(made_by: Callable[..., object]) -> set[str]:
    """Of the one dict that a function returns or appends, read from its source."""
    (function,) = ast.parse(inspect.getsource(made_by)).body
    (made,) = (node for node in ast.walk(function) if isinstance(node, ast.Dict))
    return {str(key.value) for key in made.keys if isinstance(key, ast.Constant)}


def _names(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        yield from value
        for each in value.values():
            yield from _names(each)
    elif isinstance(value, list):
        for each in value:
            yield from _names(each)


def test_the_sample_has_what_the_daemon_tells() -> None:
    (source,) = SAMPLE["sources"]
    (shard,) = source["shards"]
    assert set(SAMPLE) == _keys(status.status_body)
    assert set(SAMPLE["memory"]) == _keys(status._memory)
    assert set(SAMPLE["totals"]) == _keys(status._totals)
    assert set(shard) == _keys(status._row)
    assert set(shard["leases"][0]) == _keys(status._leases)
    assert set(SAMPLE["waiting"][0]) == _keys(status._waiting)


def test_every_name_is_explained() -> None:
    explained = set(re.findall(r"`(\w+)(?:\[\])?`", PAGE.replace(_JSON, "")))
    assert set(_names(SAMPLE)) - explained <= {"memory", "sources", "shards", "totals", "waiting"}

"""CONTRIBUTING.md is true: its files are those that name the example of each kind of change."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[3]
CODE = ("client", "daemon", "vllm_plugin")
ROW = re.compile(r"^\| ([^|]+) \| `([^`]+)` \| (\d+) \| (\d+) \| ([^|]+) \|$", re.MULTILINE)


class Change(NamedTuple):
    """A kind of change, and an example that exists."""

    pattern: str
    """The text by which a file shows that the change has to touch it."""
    own: str = " "
    """The example's own folder; a new kind would bring another one."""


CHANGES = {
    "`gs://`": Change(r'"gs"|storage\.gs\b', "client/streamer_client/storage/gs/"),
    "`Unpin`": Change(r"\bUnpin\b"),
    "`streamerctl unpin`": Change(r"\bcache\.unpin\b|def unpin\b.*Namespace"),
    "`StagedEngine`": Change(r"\bStagedEngine\b"),
    "`concurrency`": Change(
        r"\bconcurrency=|(request|message|event|load|options|_request|self)\.concurrency\b"
        r'|^    concurrency:|"concurrency":|def concurrency\b'
    ),
    "`Eviction.unwanted`": Change(r"def unwanted\b"),
}
APART = ("client/streamer_client/storage/http/",)
"""Files whose settings have words of the same kind that are no option of a load."""


def touched(change: Change) -> set[str]:
    pattern = re.compile(change.pattern, re.MULTILINE)
    found = set()
    for folder in CODE:
        for path in (ROOT / folder).rglob("*.py"):
            name = path.relative_to(ROOT).as_posix()
            if not name.startswith((change.own, *APART)) and pattern.search(path.read_text()):
                found.add(name)
    return found


def rows() -> dict[str, tuple[int, int, set[str]]]:
    page = (ROOT / "CONTRIBUTING.md").read_text()
    return {
        f"`{example}`": (int(before), int(now), set(re.findall(r"`([^`]+)`", files)))
        for _, example, before, now, files in ROW.findall(page)
    }


def test_every_kind_of_change_is_in_the_table() -> None:
    assert rows().keys() == CHANGES.keys()


@pytest.mark.parametrize("example", CHANGES)
def test_a_change_touches_the_files_that_the_table_names(example: str) -> None:
    before, now, files = rows()[example]
    assert touched(CHANGES[example]) == files
    assert len(files) == now <= before

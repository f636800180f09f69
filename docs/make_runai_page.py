"""Writes the table of differing answers in docs/runai-compatibility.md from a run of both packages.

`make diagrams` runs it. The run itself is `python -m tests.support.runai_record`; tests compare its
record with what the packages answer now, and this page with the record.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tests.support.runai_package import OURS, PACKAGE, same
from tests.support.runai_record import recorded

PAGE: Final = Path(__file__).with_name("runai-compatibility.md")
BEGIN: Final = "<!-- made by docs/make_runai_page.py; do not edit -->"
END: Final = "<!-- end of what is made -->"
_MAX_CHARACTERS: Final = 60

REASONS: Final = {
    "A second stream before the first was read to its end": (
        "nothing has to be drained here; the first iterator raises `FeedClosed`"
    ),
    "Variables that make no sense": (
        "a variable that is set to nothing counts as not set, as everywhere in this project"
    ),
    "a checkpoint with bytes behind its last tensor": (
        "safetensors itself refuses it; Run:ai looks at the size of local files alone"
    ),
    "list_files of a whole bucket": "a bucket is a prefix like any other",
    "list_files with a pattern of a bare name": (
        "patterns take names below the source too, not whole keys alone"
    ),
    "pull_files of a folder": "copying costs nothing to offer, and callers need no second way",
    "pull_files of a pattern of a bare name": (
        "patterns take names below the source too, not whole keys alone"
    ),
    "pull_files of nothing": (
        "a mistyped prefix would be noticed later, as a model without its configuration"
    ),
    "pull_files of one object": "an object is a source like a prefix",
}
"""The cases whose answers differ on purpose, and why."""


def differences() -> dict[str, list[tuple[str, str, str, str]]]:
    """For each title the rows: place, call, Run:ai's answer, ours."""
    rows: dict[str, list[tuple[str, str, str, str]]] = {}
    for place, told in recorded().items():
        for title, theirs in told[PACKAGE].items():
            ours = told[OURS][title]
            for their_step, our_step in zip(theirs, ours, strict=True):
                if not same([their_step], [our_step]):
                    row = (place, their_step[0], their_step[1], our_step[1])
                    rows.setdefault(title, []).append(row)
    return rows


def table() -> str:
    """The table as Markdown."""
    lines = [
        "| case | of | call | Run:ai 0.17 | here | why |",
        "|---|---|---|---|---|---|",
    ]
    for title, rows in sorted(differences().items(), key=lambda item: item[0].lower()):
        for place, call, theirs, ours in rows:
            cells = (title, place, f"`{call}`", _cell(theirs), _cell(ours), REASONS[title])
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(answer: str) -> str:
    if answer == "None":
        return "passes"
    shown = answer if len(answer) <= _MAX_CHARACTERS else f"{answer[:_MAX_CHARACTERS]} ..."
    return f"`{shown}`"


def page() -> str:
    """The whole page with a new table in it."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

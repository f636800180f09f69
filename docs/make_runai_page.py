"""Writes the table of differing answers in docs/runai-compatibility.md from a run of both packages.

`make diagrams` runs it. The run itself is `python -m tests.support.runai_record`; tests compare its
record with what the packages answer now, and this page with the record.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tests.support.runai_names import lacking
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


_LIBRARY: Final = "it passes handles of the C++ library about, which is not there"
_BUFFERS: Final = "it sizes or fills the C++ library's buffers; tensors here need none"
_RANKS: Final = "it divides the reading among ranks; here the daemon reads once for all"
_STORES: Final = "it picks the package of one kind of store; here one client reads all kinds"

ABSENT: Final[dict[str, str]] = {
    "": f"{_LIBRARY}; `logger_level` is the number that this library logs by",
    "distributed_streamer.distributed_streamer": _RANKS,
    "distributed_streamer.partition": _RANKS,
    "file_streamer": _LIBRARY,
    "file_streamer.file_streamer": _LIBRARY,
    "file_streamer.requests_iterator": _BUFFERS,
    "file_streamer.slot_pool": _BUFFERS,
    "libstreamer": _LIBRARY,
    "libstreamer.libstreamer": _LIBRARY,
    "s3_utils.s3_utils": _STORES,
}
"""The modules that lack names of Run:ai's, and why."""


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


def absent_names() -> str:
    """The names that are not there, as Markdown."""
    lines = ["| module | names that are not here | why |", "|---|---|---|"]
    for module, names in lacking(OURS).items():
        # A class that is absent takes its methods with it.
        shown = [name for name in names if name.partition(".")[0] not in set(names) - {name}]
        listed = ", ".join(f"`{name}`" for name in shown)
        lines.append(f"| `{module or 'runai_model_streamer'}` | {listed} | {ABSENT[module]} |")
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
    made = f"{table()}\n\n### Names that are not here\n\n{absent_names()}"
    return f"{before}{BEGIN}\n{made}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

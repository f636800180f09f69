"""Writes docs/state.md from the transition table, so that page and code cannot disagree.

`make diagrams` runs it; a test compares its output with the page.
"""

from __future__ import annotations

from pathlib import Path

from streamerd.state.lifecycle import TRANSITIONS, BlockState, Trigger

PAGE = Path(__file__).with_name("state.md")

_REASONS = {
    Trigger.RESERVE: "room was found in the ledger; a worker is told to back and read it",
    Trigger.FETCHED: "the worker read it; every load that claimed it is granted it",
    Trigger.NOT_BACKED: "/dev/shm was full: nothing was reserved, it is tried again",
    Trigger.BROKEN: "the source failed or the worker died; its memory is given back",
    Trigger.RELEASE: "evicted, or consumed by all and its room needed",
    Trigger.RELEASED: "a worker punched it out of the slab; its room is free",
    Trigger.ADOPT: "an earlier daemon left it in a slab that this one took over",
    Trigger.PROVEN: "its bytes have their checksum, or that daemon ended in good order",
    Trigger.REFUTED: "its bytes have another checksum; its memory is given back",
}


def page() -> str:
    """The whole page as Markdown with a Mermaid diagram."""
    edges = [
        f"    {old.name} --> {new.name}: {trigger.name}"
        for (old, trigger), new in TRANSITIONS.items()
    ]
    rows = [
        f"| {old.name} | {trigger.name} | {new.name} | {_REASONS[trigger]} |"
        for (old, trigger), new in TRANSITIONS.items()
    ]
    return "\n".join(
        [
            "# The life of a block",
            "",
            "Made from `daemon/streamerd/state/lifecycle.py` by `make diagrams`; do not edit.",
            "",
            "```mermaid",
            "stateDiagram-v2",
            f"    [*] --> {BlockState.ABSENT.name}",
            *edges,
            "```",
            "",
            "| state | trigger | next | when |",
            "|---|---|---|---|",
            *rows,
            "",
            "Any other pair is a defect and raises `InvalidTransition`; nothing changes then.",
            "",
            "For each load, a block is beside that *wanted*, *claimed* (charged to the load's",
            "window; it is on its way), *granted* (the client may read it) and at last *consumed*.",
            "A claimed or granted block is never released. `daemon/streamerd/state/load.py` holds",
            "these phases; `model.py` says why no order of events can deadlock on memory.",
            "",
        ]
    )


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

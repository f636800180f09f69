"""Writes docs/state.md and docs/delivery.md from the tables, so that pages and code agree.

`make diagrams` runs it; a test compares its output with the pages.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from streamer_client.delivery import pass_state
from streamer_client.delivery.pass_state import ROUTES, Command, State
from streamerd.state.lifecycle import TRANSITIONS, BlockState, Trigger

PAGE = Path(__file__).with_name("state.md")
DELIVERY_PAGE = Path(__file__).with_name("delivery.md")

_REASONS = {
    Trigger.RESERVE: "room was found in the ledger; a worker is told to back and read it",
    Trigger.FETCHED: "the worker read it; every load that claimed it is granted it",
    Trigger.NOT_BACKED: "/dev/shm was full: nothing was reserved, it is tried again",
    Trigger.BROKEN: "the source failed or the worker died; its memory is given back",
    Trigger.RELEASE: "evicted, or consumed by all and its room needed",
    Trigger.RELEASED: "a worker punched it out of the slab; its room is free",
    Trigger.ADOPT: "an earlier daemon left it in a slab that this one adopted",
    Trigger.PROVEN: "its bytes have their checksum, or that daemon ended in good order",
    Trigger.REFUTED: "its bytes have another checksum; its memory is given back",
}


def page() -> str:
    """docs/state.md: Markdown with a Mermaid diagram."""
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


def delivery_page() -> str:
    """docs/delivery.md: Markdown with a Mermaid diagram."""
    rows = [
        f"| {old.name} | {trigger.name} | {move.state.name} "
        f"| {', '.join(command.name for command in move.commands) or '-'} |"
        for (old, trigger), move in pass_state.TRANSITIONS.items()
    ]
    return "\n".join(
        [
            "# Where a load's bytes come from",
            "",
            "Made from `client/streamer_client/delivery/pass_state.py` by `make diagrams`: do not",
            "edit.",
            "",
            "Each load of a client that has a daemon is in one of these states. A reader reads in",
            "*passes*: it names blocks, waits for each, and gives it back.",
            "",
            "```mermaid",
            "stateDiagram-v2",
            f"    [*] --> {State.NEW.name}",
            *_delivery_edges(),
            f"    {State.CLOSED.name} --> [*]",
            "```",
            "",
            "Any state may be closed; the diagram leaves these moves out, and those that stay",
            "where they are.",
            "",
            "| state | `mode` that users are shown |",
            "|---|---|",
            *[f"| {state.name} | `{ROUTES[state]}` |" for state in State if state in ROUTES],
            "",
            *_delivery_tables(rows),
            "Any other pair is a defect and raises `IllegalMove`; nothing changes then.",
            "",
        ]
    )


def _delivery_tables(rows: list[str]) -> list[str]:
    """The moves, and what their triggers and commands mean."""
    return [
        "| state | trigger | next | what is done |",
        "|---|---|---|---|",
        *rows,
        "",
        "| trigger | when |",
        "|---|---|",
        *[f"| {trigger.name} | {trigger.value} |" for trigger in pass_state.Trigger],
        "",
        "| done | means |",
        "|---|---|",
        *[f"| {command.name} | {command.value} |" for command in Command],
        "",
    ]


def _delivery_edges() -> list[str]:
    """One arrow for all triggers that lead from one state to another."""
    edges: dict[tuple[State, State], list[str]] = defaultdict(list)
    for (old, trigger), move in pass_state.TRANSITIONS.items():
        if old is not move.state and trigger is not pass_state.Trigger.CLOSE:
            edges[old, move.state].append(trigger.name)
    return [f"    {old.name} --> {new.name}: {', '.join(t)}" for (old, new), t in edges.items()]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    DELIVERY_PAGE.write_text(delivery_page(), encoding="utf-8")

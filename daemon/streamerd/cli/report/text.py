"""Shows a report on a terminal: a table of the last loads, or one load in full. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from streamer_client.contract.sizes import format_size, shards_word
from streamerd.cli.report.course import spent_s
from streamerd.cli.status_view import percent, rate_text
from streamerd.cli.terminal import one_line
from streamerd.observe.document import LoadReport

_STYLES = {"ended": "green", "running": "cyan", "gone": "yellow"}


def table_of(loads: Sequence[LoadReport]) -> RenderableType:
    """The loads, a row each, the oldest first."""
    if not loads:
        return Text("no load yet since the daemon's start", style="bright_black")
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bright_black")
    table.add_column("#", justify="right", no_wrap=True)
    table.add_column("source")  # rich narrows this column alone on a small screen
    table.add_column("by", no_wrap=True)
    table.add_column("outcome", no_wrap=True)
    for title in ("seconds", "rate", "served", "from memory", "waited"):
        table.add_column(title, justify="right", no_wrap=True)
    for load in loads:
        spent = spent_s(load)
        waited = spent["memory"] + spent["credentials"] + spent["blocks"]
        table.add_row(
            str(load.number),
            Text(one_line(load.source), no_wrap=True, overflow="ellipsis"),
            one_line(load.label or f"pid {load.pid}"),
            Text(load.outcome, style=_STYLES.get(load.outcome, "bold red")),
            f"{load.seconds:.2f}",
            rate_text(load.served_bytes / load.seconds) if load.seconds else "",
            format_size(load.served_bytes),
            percent(load.resident_bytes, load.served_bytes) if load.served_bytes else "",
            percent(round(1e6 * waited), round(1e6 * load.seconds)) if load.seconds else "",
        )
    return table


def _from_nodes(load: LoadReport) -> str:
    """The bytes that other nodes of a fleet sent, in words; empty where there is no fleet."""
    return f"{format_size(load.peer_bytes)} sent by other nodes, " if load.peer_bytes else ""


def load_in_full(load: LoadReport) -> RenderableType:
    """One load: where its bytes came from, and where its time went."""
    size, shards = format_size(load.size_bytes), shards_word(load.shards)
    lines = [
        Text.assemble(
            (f"{load.kind} {load.number}  {one_line(load.source)}", "bold"), f"  {shards}, {size}"
        ),
        Text(f"  by       pid {load.pid}, user {load.uid}, {one_line(load.label)}"),
        Text(f"  outcome  {load.outcome} after {load.seconds:.3f} s {one_line(load.error)}"),
        Text(
            f"  bytes    {format_size(load.served_bytes)} served: "
            f"{format_size(load.resident_bytes)} from memory, {format_size(load.read_bytes)} read "
            f"for it, {_from_nodes(load)}{format_size(load.shared_bytes)} read for other loads "
            "meanwhile"
        ),
    ]
    names = {"blocks": "waiting for blocks", "copying": "copying",
             "memory": "waiting for memory", "credentials": "waiting for credentials"}  # fmt: skip
    spent = spent_s(load)
    told = [f"{seconds:.3f} s {names[phase]}" for phase, seconds in spent.items() if seconds]
    lines.append(Text(f"  time     {', '.join(told) or 'none to speak of'}"))
    return Group(*lines)

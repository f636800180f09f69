"""Makes the page of a watch, which always fits the screen and always has memory and totals on it.

This module is pure: it turns the typed document and the size of the screen into what rich renders.
Sources are shown shard by shard if all shards fit. Otherwise the sources with the most shards are
folded into one row each, and rows that still do not fit are only counted. `cli/status_view.py`
shows a status at its full length.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from streamer_client.contract.sizes import format_size
from streamer_client.contract.status import ShardState, SourceStatus, StatusDocument
from streamerd.cli.status_view import (
    duration,
    headline,
    in_lines,
    memory_part,
    percent,
    rate_text,
    source_lines,
    source_part,
    totals_lines,
    totals_part,
    waiting_part,
)
from streamerd.cli.watch.rates import NodeRates, source_eta_s, source_rate

_OF: Final = re.compile(r"-of-0*(\d+)\.")
"""Finds the number of a checkpoint's files in the name of one, as Hugging Face names them."""
_FRAME_LINES: Final = 5
"""Lines of the headline, of memory with its legend, and of the node's rates, each part with an
empty line after it."""


def watch_page(
    status: StatusDocument, rates: NodeRates, height: int, note: str = ""
) -> RenderableType:
    """The whole page.

    Args:
        status: the latest status that the daemon told.
        rates: the rates of the node.
        height: the number of lines of the screen.
        note: what else the user should know, such as that the daemon is gone.
    """
    status = in_lines(status)
    parts: list[RenderableType] = [headline(status), memory_part(status.memory)]
    parts.append(Text(note, style="bold yellow") if note else _node(status, rates))
    waiting = waiting_part(status.waiting, status.memory) if status.waiting else []
    left = height - _FRAME_LINES - totals_lines(status.totals) - 1
    left -= bool(status.memory.lingering_bytes)
    if waiting:
        left -= len(status.waiting) + 2
    parts += [Text(), *_sources(status.sources, rates, max(left, 1)), Text()]
    if waiting:
        parts += [*waiting, Text()]
    return Group(*parts, totals_part(status.totals))


def watch_line(status: StatusDocument, rates: NodeRates) -> str:
    """The status in one line, for terminals that cannot move the cursor back."""
    status, memory = in_lines(status), status.memory
    used, limit = format_size(memory.used_bytes), format_size(memory.limit_bytes)
    told = [
        f"{used} of {limit} ({percent(memory.used_bytes, memory.limit_bytes)})",
        f"read {rate_text(rates.read)}, served {rate_text(rates.served)}",
    ]
    told += [
        f"{source.uri} {_loaded(source)}, ETA {duration(eta_s)}"
        for source in status.sources
        if (eta_s := source_eta_s(source, rates)) is not None
    ]
    if status.waiting:
        told.append(f"{len(status.waiting)} waiting for memory")
    return "; ".join(told)


def _node(status: StatusDocument, rates: NodeRates) -> Text:
    text = Text.assemble(
        ("now", "bold"),
        f"     read {rate_text(rates.read)}, served {rate_text(rates.served)}",
    )
    etas = [eta for source in status.sources if (eta := source_eta_s(source, rates)) is not None]
    return text.append(f", all there in {duration(max(etas))}") if etas else text


# --- sources --------------------------------------------------------------------------------------


def _sources(sources: Sequence[SourceStatus], rates: NodeRates, lines: int) -> list[RenderableType]:
    if not sources:
        return [Text("nothing in memory yet", style="bright_black")]
    whole = _unfolded(sources, lines)
    parts: list[RenderableType] = []
    for source in sources:
        if source.uri in whole:
            parts += source_part(source)
    folded = [source for source in sources if source.uri not in whole]
    if folded:
        used = sum(source_lines(source) for source in sources if source.uri in whole)
        parts += _folded(sorted(folded, key=_interest), rates, lines - used)
    return parts


def _unfolded(sources: Sequence[SourceStatus], lines: int) -> set[str]:
    """The sources that are shown shard by shard: the smallest, as far as there is room."""
    whole = {source.uri for source in sources}
    for source in sorted(sources, key=lambda source: -len(source.shards)):
        folded = len(sources) - len(whole)
        needed = sum(source_lines(each) for each in sources if each.uri in whole)
        if needed + (folded + 1 if folded else 0) <= lines:
            break
        whole.discard(source.uri)
    return whole


def _interest(source: SourceStatus) -> tuple[bool, bool, bool]:
    """A key for sorting: sources that are being read come first, then failed, then used ones."""
    states = {shard.state for shard in source.shards}
    moves = bool(states & {ShardState.STREAMING, ShardState.QUEUED})
    used = any(shard.leases for shard in source.shards)
    return (not moves, ShardState.FAILED not in states, not used)


def _folded(sources: Sequence[SourceStatus], rates: NodeRates, lines: int) -> list[RenderableType]:
    """A row for each source, as many as have room, and a line that counts the others."""
    rows = max(lines - 1, 1)
    if len(sources) > rows:
        rows = max(rows - 1, 1)
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bright_black")
    table.add_column("model")  # rich narrows this column alone on a small screen
    table.add_column("shards", no_wrap=True)
    for title in ("size", "loaded", "rate", "ETA", "consumed"):
        table.add_column(title, justify="right", no_wrap=True)
    for source in sources[:rows]:
        eta_s, rate = source_eta_s(source, rates), source_rate(source, rates)
        table.add_row(
            Text(source.uri, style="bold", no_wrap=True, overflow="ellipsis"),
            _shards(source),
            format_size(sum(shard.size_bytes for shard in source.shards)),
            _loaded(source),
            rate_text(rate) if rate else "",
            duration(eta_s) if eta_s is not None else "",
            _consumed(source),
        )
    more = len(sources) - rows
    return [table, Text(f"and {more} more")] if more > 0 else [table]


def _shards(source: SourceStatus) -> Text:
    """The number of shards, `60` or `58 of 60` if some are missing, and how many failed."""
    there = sum(shard.state == ShardState.RESIDENT for shard in source.shards)
    told = [int(found[1]) for shard in source.shards if (found := _OF.search(shard.uri))]
    all_of_them = max([len(source.shards), *told])
    text = Text(str(there) if there == all_of_them else f"{there} of {all_of_them}")
    failed = sum(shard.state == ShardState.FAILED for shard in source.shards)
    return text.append(f", {failed} failed", style="bold red") if failed else text


def _loaded(source: SourceStatus) -> str:
    size = sum(shard.size_bytes for shard in source.shards)
    return percent(sum(shard.resident_bytes for shard in source.shards), size)


def _consumed(source: SourceStatus) -> str:
    """The share of the leased bytes that the lease holders consumed; empty where nobody leases."""
    leases = [(lease, shard) for shard in source.shards for lease in shard.leases]
    if not leases:
        return ""
    size = sum(shard.size_bytes for _, shard in leases)
    return percent(sum(lease.consumed_bytes for lease, _ in leases), size)

"""Turns the typed document of the status into what rich renders for `streamerctl status`. Pure."""

from __future__ import annotations

import os
from typing import Any

import msgspec
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from streamer_client.contract.sizes import format_size, shards_word
from streamer_client.contract.status import (
    FleetStatus,
    MemoryStatus,
    ShardState,
    ShardStatus,
    SourceStatus,
    StatusDocument,
    TotalsStatus,
    WaitingStatus,
)
from streamerd.cli.terminal import one_line

_STATE_STYLES: dict[str, str] = {
    ShardState.QUEUED: "bright_black",
    ShardState.STREAMING: "cyan",
    ShardState.PARTIAL: "yellow",
    ShardState.RESIDENT: "green",
    ShardState.FAILED: "bold red",
}


def status_view(status: StatusDocument) -> RenderableType:
    """The whole page."""
    status = in_lines(status)
    parts: list[RenderableType] = [headline(status), Text(), memory_part(status.memory)]
    for source in status.sources:
        parts += [Text(), *source_part(source)]
    if not status.sources:
        parts += [Text(), Text("nothing in memory yet", style="bright_black")]
    if status.waiting:
        parts += [Text(), *waiting_part(status.waiting, status.memory)]
    parts += [Text(), totals_part(status.totals)]
    if status.fleet is not None:
        parts.append(fleet_part(status.fleet))
    return Group(*parts)


def in_lines(status: StatusDocument) -> StatusDocument:
    """The same status with printable texts, since clients chose the names and labels in it."""
    return msgspec.convert(_each_in_a_line(status.body()), StatusDocument)


def _each_in_a_line(value: Any) -> Any:
    match value:
        case str():
            return one_line(value)
        case dict():
            return {key: _each_in_a_line(each) for key, each in value.items()}
        case list() | tuple():
            return [_each_in_a_line(each) for each in value]
        case _:
            return value


def duration(seconds: float) -> str:
    """A duration as text: `42s`, `3m 05s`, `2h 10m`, `4d 03h`."""
    whole = int(seconds)
    for unit_s, unit, smaller_s, smaller in (
        (86400, "d", 3600, "h"),
        (3600, "h", 60, "m"),
        (60, "m", 1, "s"),
    ):
        if whole >= unit_s:
            return f"{whole // unit_s}{unit} {whole % unit_s // smaller_s:02d}{smaller}"
    return f"{whole}s"


def rate_text(bytes_per_s: float) -> str:
    """A rate as text of three digits in the fitting unit: `1.25 GB/s`, `12.3 MB/s`, `850 KB/s`."""
    value, unit = bytes_per_s, "B/s"
    for larger in ("KB/s", "MB/s", "GB/s"):
        if value < 999.5:
            break
        value, unit = value / 1000, larger
    if unit == "B/s":
        return f"{value:.0f} {unit}"
    digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:.{digits}f} {unit}"


def source_lines(source: SourceStatus) -> int:
    """The number of lines of `source_part` if no line is wrapped."""
    holders = {(lease.pid, lease.label) for shard in source.shards for lease in shard.leases}
    return 2 + len(source.shards) + len(holders) + sum(bool(one.error) for one in source.shards)


def totals_lines(totals: TotalsStatus) -> int:
    """The number of lines of `totals_part` if no line is wrapped."""
    return 3 if totals.lost_threads else 2


def percent(part: int, whole: int) -> str:
    """A share as text, rounded down so that 100% means all; a share of an empty whole is 100%."""
    return f"{100 * part // whole}%" if whole else "100%"


def headline(status: StatusDocument) -> Text:
    """One line about the daemon and its socket."""
    return Text.assemble(
        (f"streamerd {status.version}", "bold"),
        f"  pid {status.pid}  up {duration(status.uptime_s)}  {status.socket}",
    )


def memory_part(memory: MemoryStatus) -> RenderableType:
    """The bar of the memory limit, with a legend of its shades."""
    used, limit = format_size(memory.used_bytes), format_size(memory.limit_bytes)
    bar = Table.grid(padding=(0, 2, 0, 0), expand=True)
    bar.add_column(no_wrap=True)
    bar.add_column(ratio=1)
    bar.add_column(no_wrap=True)
    bar.add_row(
        Text("memory", style="bold"),
        MemoryBar(memory.leased_bytes, memory.used_bytes, memory.limit_bytes),
        f"{used} of {limit} ({percent(memory.used_bytes, memory.limit_bytes)})",
    )
    return Group(bar, Padding(MemoryLegend(memory), (0, 0, 0, 8)))


def _beneath(text: str) -> RenderableType:
    """A line below another line, indented to where the second word of that line begins."""
    return Padding(Text(text), (0, 0, 0, 8))


def source_part(source: SourceStatus) -> list[RenderableType]:
    """A source: its shards, who holds them, and what failed."""
    size_bytes = sum(shard.size_bytes for shard in source.shards)
    resident_bytes = sum(shard.resident_bytes for shard in source.shards)
    headline = Text.assemble(
        (source.uri, "bold"),
        f"  {shards_word(len(source.shards))}, {format_size(size_bytes)}, "
        f"{percent(resident_bytes, size_bytes)} resident",
    )
    errors = [
        Padding(Text(f"{_name(shard, source)}: {shard.error}", style="red"), (0, 0, 0, 2))
        for shard in source.shards
        if shard.error
    ]
    return [headline, _shards(source), *_holders(source), *errors]


def _shards(source: SourceStatus) -> RenderableType:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bright_black")
    table.add_column("shard", overflow="ellipsis")  # a narrow screen cuts this column alone
    table.add_column("state", no_wrap=True)
    for title in ("size", "loaded", "rate", "ETA", "leases"):
        table.add_column(title, justify="right", no_wrap=True)
    for shard in source.shards:
        table.add_row(
            _name(shard, source),
            _state(shard),
            format_size(shard.size_bytes),
            percent(shard.resident_bytes, shard.size_bytes),
            rate_text(shard.bytes_per_s) if shard.bytes_per_s else "",
            duration(shard.eta_s)
            if shard.eta_s is not None and shard.state != ShardState.RESIDENT
            else "",
            str(len(shard.leases) or ""),
        )
    return Padding(table, (0, 0, 0, 2))


def _holders(source: SourceStatus) -> list[RenderableType]:
    """One line for each process that leases shards of this source, with sums over its shards."""
    held: dict[tuple[int, str], list[tuple[int, int]]] = {}
    for shard in source.shards:
        for lease in shard.leases:
            shares = held.setdefault((lease.pid, lease.label), [])
            shares.append((lease.consumed_bytes, shard.size_bytes))
    if not held:
        return []
    grid = Table.grid(padding=(0, 2, 0, 0))
    for row, ((pid, label), shares) in enumerate(held.items()):
        consumed_bytes = sum(consumed for consumed, _ in shares)
        size_bytes = sum(size for _, size in shares)
        grid.add_row(
            "  leased by" if row == 0 else "",
            f"pid {pid}",
            label,
            f"{shards_word(len(shares))}, {percent(consumed_bytes, size_bytes)} consumed",
        )
    return [grid]


def _name(shard: ShardStatus, source: SourceStatus) -> str:
    inside = shard.uri.startswith(source.uri.rstrip("/") + "/")
    return shard.uri[len(source.uri.rstrip("/")) + 1 :] if inside else os.path.basename(shard.uri)


def _state(shard: ShardStatus) -> Text:
    text = Text(shard.state, style=_STATE_STYLES.get(shard.state, ""))
    if shard.retries and shard.state == ShardState.STREAMING:
        text.append(f", {shard.retries} retried", style="yellow")
    return text.append(" pinned", style="yellow") if shard.pinned else text


def waiting_part(waiting: tuple[WaitingStatus, ...], memory: MemoryStatus) -> list[RenderableType]:
    """The loads that wait for memory."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    for load in waiting:
        grid.add_row(f"  pid {load.pid}", load.label, f"needs {format_size(load.needs_bytes)}")
    headline = Text.assemble(
        ("waiting for memory", "bold yellow"),
        f"  limit {format_size(memory.limit_bytes)}, leased {format_size(memory.leased_bytes)}, "
        f"pinned {format_size(memory.pinned_bytes)}",
    )
    return [headline, grid]


def totals_part(totals: TotalsStatus) -> RenderableType:
    """The counters since the daemon's start."""
    carried = Text.assemble(
        ("totals", "bold"),
        f"  read {format_size(totals.source_read_bytes)} in {totals.source_requests:,} requests, "
        f"served {format_size(totals.served_bytes)}, evicted {format_size(totals.evicted_bytes)}",
    )
    counted = (
        f"block hits {totals.block_hits:,}, misses {totals.block_misses:,}; "
        f"retries {totals.retries:,}, errors {totals.errors:,}, "
        f"worker restarts {totals.worker_restarts:,}"
    )
    if not totals.lost_threads:
        return Group(carried, _beneath(counted))
    hung = (
        f"{totals.lost_threads:,} threads lost to file systems that hang, "
        f"{totals.retired_workers:,} workers replaced for that"
    )
    return Group(carried, _beneath(counted), _beneath(hung))


def fleet_part(fleet: FleetStatus) -> RenderableType:
    """The bytes that came from other nodes and went to them; `streamerctl fleet` tells more."""
    return Text.assemble(
        ("fleet", "bold"),
        f"   {len(fleet.members)} members; {format_size(fleet.peer_bytes)} from other nodes, "
        f"{format_size(fleet.sent_bytes)} to them",
    )


_SHADES = ("█", "▓", "░")
_PLAIN_SHADES = ("#", "=", ".")
"""The characters for memory that is leased, that nobody leases, and that is free."""


def _shades(options: ConsoleOptions) -> tuple[str, str, str]:
    return _PLAIN_SHADES if options.ascii_only else _SHADES


class MemoryLegend:
    """The meaning of the bar's shades, with figures."""

    def __init__(self, memory: MemoryStatus) -> None:
        self._memory = memory

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        memory = self._memory
        leased, idle, free = _shades(options)
        idle_bytes = max(memory.used_bytes - memory.leased_bytes, 0)
        free_bytes = max(memory.limit_bytes - memory.used_bytes, 0)
        text = Text.assemble(
            (leased, "green"), f" leased {format_size(memory.leased_bytes)}, ",
            (idle, "cyan"), f" idle {format_size(idle_bytes)}, ",
            (free, "bright_black"), f" free {format_size(free_bytes)}; "
            f"pinned {format_size(memory.pinned_bytes)}",
        )  # fmt: skip
        yield text
        if memory.lingering_bytes:
            size = format_size(memory.lingering_bytes)
            yield Text(f"beside it {size} that old clients still map")


class MemoryBar:
    """A bar as wide as the console: how much of the memory limit is leased, unused and free."""

    def __init__(self, leased_bytes: int, used_bytes: int, limit_bytes: int) -> None:
        self._leased_bytes = leased_bytes
        self._used_bytes = used_bytes
        self._limit_bytes = max(limit_bytes, 1)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width
        leased, used, free = _shades(options)
        leased_cells = self._cells(self._leased_bytes, width)
        used_cells = max(self._cells(self._used_bytes, width) - leased_cells, 0)
        yield Text.assemble(
            (leased * leased_cells, "green"),
            (used * used_cells, "cyan"),
            (free * (width - leased_cells - used_cells), "bright_black"),
        )

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(4, options.max_width)

    def _cells(self, size_bytes: int, width: int) -> int:
        """How many cells a part of the bar gets; a part that is not empty gets at least one."""
        cells = round(width * min(size_bytes, self._limit_bytes) / self._limit_bytes)
        return max(cells, 1) if size_bytes else 0

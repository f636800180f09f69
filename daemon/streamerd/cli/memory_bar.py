"""A bar as wide as there is room: how full the memory limit is. Pure: a renderable, no I/O."""

from __future__ import annotations

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.text import Text


class MemoryBar:
    """Three stretches: leased (may not be taken away), used by nobody at present, free."""

    def __init__(self, leased_bytes: int, used_bytes: int, limit_bytes: int) -> None:
        self._leased_bytes = leased_bytes
        self._used_bytes = used_bytes
        self._limit_bytes = max(limit_bytes, 1)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width
        leased, used, free = "#=." if options.ascii_only else "█▓░"
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
        """Cells of a stretch; anything at all is at least one."""
        cells = round(width * min(size_bytes, self._limit_bytes) / self._limit_bytes)
        return max(cells, 1) if size_bytes else 0

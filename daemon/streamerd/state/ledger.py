"""The account of the memory limit, in two columns.

*Used* is memory: bytes reserved for a fetch, resident, or on their way back to the system.
*Committed* is promises: shards held whole, and for each other load the larger of its smallest
window and what it has claimed. Both stay within the limit. As every claimed block is covered by a
promise, a load within its promise always finds room, after blocks that nobody claims were released;
that is why nothing can deadlock on memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

GROWTH_QUARTERS: Final = 3
"""Windows grow beyond the smallest only up to so much of the limit: newcomers find the rest."""


@dataclass(slots=True)
class Ledger:
    """Bytes, all of them shared memory."""

    limit_bytes: int
    used_bytes: int = 0
    releasing_bytes: int = 0
    """The part of `used_bytes` that is on its way back to the system."""
    committed_bytes: int = 0
    squeezed_to_bytes: int | None = None
    """After ENOSPC: what the mount turned out to have room for, until the next tick."""

    @property
    def usable_bytes(self) -> int:
        """The limit, or less while the mount is full."""
        if self.squeezed_to_bytes is None:
            return self.limit_bytes
        return min(self.limit_bytes, self.squeezed_to_bytes)

    def room_for(self, size_bytes: int) -> bool:
        """Whether `size_bytes` can be reserved now."""
        return self.used_bytes + size_bytes <= self.usable_bytes

    def shortage(self, size_bytes: int) -> int:
        """Bytes that must still be released, beside those on their way, to reserve `size_bytes`."""
        return self.used_bytes - self.releasing_bytes + size_bytes - self.usable_bytes

    def can_commit(self, size_bytes: int) -> bool:
        """Whether a promise of `size_bytes` more can be kept."""
        return self.committed_bytes + size_bytes <= self.limit_bytes

    @property
    def growth_bytes(self) -> int:
        """Bytes by which windows may still grow beyond their smallest; negative when overdrawn."""
        return self.limit_bytes * GROWTH_QUARTERS // 4 - self.committed_bytes

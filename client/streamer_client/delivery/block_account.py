"""The account of one load's blocks: which are wanted, granted, and consumed. Pure.

Owns no lock: `leased_load.py` calls it under a lock of its own, except where a method says that
copying threads call it without a lock.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Sequence
from typing import Final

from streamer_client.contract.layout import BlockRange
from streamer_client.copy.plan import blocks, in_order

GIVE_BACK_SHARE: Final = 16
MOST_GIVEN_BACK_BLOCKS: Final = 32
"""How many consumed blocks are told of together at most. While the load lacks no block, telling of
each block would cost copying threads more than it is worth. So consumed blocks are told of by
sixteenths of the load, or by this number. Others may wait for their memory meanwhile. A load of
4,096 resident blocks took 0.21 - 0.24 s with 32, and 0.28 - 0.31 s with 8 (two cores)."""


class BlockAccount:
    """Blocks wanted, granted and consumed; a shard's number is its place in the load.

    A held shard stays granted until the load ends. In other shards, a granted block fills the
    load's window until it is consumed.

    Args:
        counts: number of blocks of each shard.
        held: for each shard, whether it is held.
        wants_all: whether every block is wanted from the start.
    """

    def __init__(
        self, counts: Sequence[int], held: Sequence[bool], *, wants_all: bool = False
    ) -> None:
        self.held = tuple(held)
        self.lacking = wants_all
        """Whether a wanted block is not granted yet."""
        self._granted = [bytearray(count) for count in counts]
        self._wanted = [bytearray(b"\1" * count if wants_all else count) for count in counts]
        self._consumed: deque[BlockRange] = deque()
        """Consumed blocks that the daemon was not told of yet. Copying threads change the queue
        without the load's lock, since they would have to wait for that lock at each block."""
        share = sum(counts) // GIVE_BACK_SHARE
        self._tell_blocks = max(1, min(share, MOST_GIVEN_BACK_BLOCKS))

    # --- copying threads, without the load's lock -------------------------------------------------

    def has(self, shard: int, start: int, stop: int) -> bool:
        """Whether all these blocks are granted."""
        return self._granted[shard].count(1, start, stop) == stop - start

    def consume(self, shard: int, start: int, stop: int) -> bool:
        """Note granted blocks as read, unless the shard is held anyway.

        Returns:
            Whether to tell the daemon now. While blocks are lacking, it is told of each block, as
            the lacking ones may need the room; otherwise it is told of several together.
        """
        if self.held[shard]:
            return False
        self._granted[shard][start:stop] = bytes(stop - start)
        self._consumed.append(BlockRange(shard, start, stop))
        return self.lacking or len(self._consumed) >= self._tell_blocks

    def take_consumed(self) -> tuple[BlockRange, ...]:
        """Take out the blocks that the daemon was not told of yet; they then count as told."""
        ranges = []
        with contextlib.suppress(IndexError):  # raised once this thread or another emptied it
            while True:
                ranges.append(self._consumed.popleft())
        return tuple(ranges)

    # --- under the load's lock -------------------------------------------------------------------

    def lies_in(self, shard: int, stop: int) -> bool:
        """Whether the load has a shard of this number, with at least `stop` blocks."""
        return shard < len(self._granted) and stop <= len(self._granted[shard])

    def grant(self, shard: int, start: int, stop: int) -> None:
        """Note blocks that may be read from now on."""
        self._granted[shard][start:stop] = b"\1" * (stop - start)
        self._wanted[shard][start:stop] = bytes(stop - start)

    def update_lacking(self) -> None:
        """Update `lacking`; to be called after any number of `grant`."""
        self.lacking = any(1 in wanted for wanted in self._wanted)

    def want(self, order: Sequence[BlockRange]) -> None:
        """Want these blocks and no others, except those that are granted already."""
        for wanted in self._wanted:
            wanted[:] = bytes(len(wanted))
        for shard, start, stop in order:
            flags = self._granted[shard][start:stop]
            self._wanted[shard][start:stop] = bytes(1 - flag for flag in flags)
        self.update_lacking()

    def complete(self) -> bool:
        """Whether every block is granted, so that there is nothing left to want."""
        return not any(0 in flags for flags in self._granted)

    def idle(self) -> bool:
        """Whether no block is wanted or granted in shards that are not held."""
        return not any(
            any(self._wanted[shard]) or any(self._granted[shard])
            for shard, held in enumerate(self.held)
            if not held
        )

    def all_after(self, first: Sequence[BlockRange]) -> tuple[BlockRange, ...]:
        """These blocks, then all others that are not granted, in file order."""
        named = set(blocks(first))
        rest = (
            (shard, block)
            for shard, flags in enumerate(self._granted)
            for block, flag in enumerate(flags)
            if not flag and (shard, block) not in named
        )
        return (*first, *in_order(rest))

    def revoke(self, shard: int) -> None:
        """Count no block of a shard as granted, because the shard cannot be read."""
        self._granted[shard][:] = bytes(len(self._granted[shard]))

    def forget(self) -> None:
        """Count no block as granted that the daemon may release."""
        for shard, held in enumerate(self.held):
            if not held:
                self.revoke(shard)

"""One shard: which of its blocks are resident, and which loads have a claim on them."""

from __future__ import annotations

from dataclasses import dataclass, field

from streamer_client.contract.layout import block_count, slab_bytes
from streamerd.state.events import LoadKey, ShardKey
from streamerd.state.lifecycle import BlockState, Trigger, next_state


@dataclass(slots=True, eq=False)
class Shard:
    """State of one shard and of its slab.

    A load *claims* a block from the time it waits for it until it has consumed it. A claimed block
    is never released.
    """

    key: ShardKey
    size_bytes: int
    block_bytes: int
    remote: bool = False
    blocks: int = 0
    slab_bytes: int = 0
    """Bytes of shared memory when all of it is resident."""
    states: bytearray = field(default_factory=bytearray)
    claims: list[int] = field(default_factory=list)
    """Number of loads that claim each block."""
    attempts: dict[int, int] = field(default_factory=dict)
    """Number of workers that died over each block since it was last fetched."""
    loads: dict[LoadKey, int] = field(default_factory=dict)
    """Loads that lease the shard, with the number it has in each."""
    holders: int = 0
    """Number of loads that hold it whole."""
    pinned: bool = False
    whole_only: bool = False
    """The slab is adopted, and clients of the earlier daemon may have it mapped.

    Their views would lose the bytes of a block that is released. Such a slab is therefore only
    given up as a whole, by unlinking it, which leaves the bytes to those who have it mapped. While
    an admitted load leases the shard, it is committed, so that no load waits for its blocks.
    """
    stale: bool = False
    """Its source changed, or it was evicted. It is dropped when its last lease ends; a load that
    opens it before that makes it current again."""
    error: tuple[str, str] | None = None
    resident_bytes: int = 0
    last_used_s: float = 0.0
    sourced: bool = False
    """A load brought a way to read it (descriptors or credentials), which is still open."""

    def __post_init__(self) -> None:
        self.blocks = block_count(self.size_bytes, self.block_bytes)
        self.slab_bytes = slab_bytes(self.size_bytes)
        self.states = bytearray(self.blocks)
        self.claims = [0] * self.blocks

    @property
    def committed(self) -> bool:
        """Whether room for the whole shard is set aside."""
        return self.holders > 0 or self.pinned

    @property
    def needs_source(self) -> bool:
        """Whether a block may still have to be read for a load that leases the shard.

        A load that holds the shard whole needs no read once all of it is resident. A load with a
        window may need blocks again. That is so even while the shard is pinned or held by other
        loads, since the pin or the other loads may end first.
        """
        if not self.loads:
            return False
        return self.holders < len(self.loads) or not self.all_resident(0, self.blocks)

    def bytes_of(self, start: int, stop: int) -> int:
        """Shared memory behind blocks `start` to `stop`: a fast form of `layout.blocks_bytes`."""
        if start >= stop:
            return 0
        if stop < self.blocks:
            return (stop - start) * self.block_bytes
        return self.slab_bytes - start * self.block_bytes

    def move(self, block: int, trigger: Trigger) -> BlockState:
        """Move one block along the table, and correct the count of resident bytes."""
        old = self.states[block]
        new = next_state(old, trigger, where=(self.key.uri, block))
        if new is BlockState.RESIDENT:
            self.resident_bytes += self.bytes_of(block, block + 1)
        elif old == BlockState.RESIDENT:
            self.resident_bytes -= self.bytes_of(block, block + 1)
        self.states[block] = new
        return new

    def move_range(self, start: int, stop: int, trigger: Trigger) -> None:
        """Move several blocks that are all in the same state."""
        old = self.states[start]
        assert self.states.count(old, start, stop) == stop - start, "blocks of different states"
        new = next_state(old, trigger, where=(self.key.uri, start))
        if BlockState.RESIDENT in (old, new):
            sign = 1 if new is BlockState.RESIDENT else -1
            self.resident_bytes += sign * self.bytes_of(start, stop)
        self.states[start:stop] = bytes([new]) * (stop - start)

    def all_resident(self, start: int, stop: int) -> bool:
        """Whether blocks `start` to `stop` are all resident; one pass in C."""
        return self.states.count(BlockState.RESIDENT, start, stop) == stop - start

    def resident_in(self, start: int, stop: int) -> int:
        """Resident bytes of blocks `start` to `stop`."""
        count = self.states.count(BlockState.RESIDENT, start, stop)
        if count and stop == self.blocks and self.states[stop - 1] == BlockState.RESIDENT:
            return (count - 1) * self.block_bytes + self.bytes_of(stop - 1, stop)
        return count * self.block_bytes

    def releasable(self, block: int) -> bool:
        """Whether this block may be released: it is resident, and no load and no pin needs it."""
        return (
            self.states[block] == BlockState.RESIDENT
            and not self.claims[block]
            and not self.committed
            and not self.whole_only
        )

    @property
    def discardable(self) -> bool:
        """Whether a `whole_only` slab can be given up now.

        It must not be committed, and no worker may be at work on any of its blocks.
        """
        at_rest = self.states.count(BlockState.RESIDENT) + self.states.count(BlockState.ABSENT)
        return self.whole_only and not self.committed and at_rest == self.blocks

    def resident_runs(self) -> tuple[tuple[int, int], ...]:
        """Its resident blocks as half-open ranges."""
        runs = []
        start = self.states.find(BlockState.RESIDENT)
        while start >= 0:
            stop = start + 1
            while stop < self.blocks and self.states[stop] == BlockState.RESIDENT:
                stop += 1
            runs.append((start, stop))
            start = self.states.find(BlockState.RESIDENT, stop)
        return tuple(runs)

    @property
    def empty(self) -> bool:
        """Whether the slab can be removed: no block is reserved or resident, no load, no pin."""
        return not self.loads and not self.pinned and not any(self.states)

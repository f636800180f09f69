"""One shard: which of its blocks are resident, and which loads have a claim on them."""

from __future__ import annotations

from dataclasses import dataclass, field

from streamer_client.contract.layout import block_count, slab_bytes
from streamerd.state.events import LoadKey, ShardKey
from streamerd.state.lifecycle import BlockState, Trigger, next_state


@dataclass(slots=True, eq=False)
class Shard:
    """State of one shard and of its slab.

    A load *claims* a block from the moment when it begins to wait for the block until it has
    consumed the block. A claimed block is never released.
    """

    key: ShardKey
    size_bytes: int
    block_bytes: int
    remote: bool = False
    blocks: int = 0
    slab_bytes: int = 0
    """Bytes of shared memory that the slab takes when the whole shard is resident."""
    states: bytearray = field(default_factory=bytearray)
    claims: list[int] = field(default_factory=list)
    """Number of loads that claim each block."""
    attempts: dict[int, int] = field(default_factory=dict)
    """Number of workers that died over each block since it was last fetched."""
    loads: dict[LoadKey, int] = field(default_factory=dict)
    """Loads that lease the shard, each with the index of this shard in the load."""
    holders: int = 0
    """Number of loads that hold the shard whole."""
    pinned: bool = False
    whole_only: bool = False
    """The slab is adopted, and clients of the earlier daemon may have it mapped.

    Those clients' views would lose the bytes of a block that is released. Such a slab is therefore
    only given up as a whole: it is unlinked, and clients that have it mapped still see its bytes.
    While an admitted load leases the shard, room for the whole shard is committed, so that no load
    waits for memory for its blocks.
    """
    stale: bool = False
    """Whether the source changed or the shard was evicted. A stale shard is dropped when its last
    lease ends, unless a load opens it before that and so makes it current again."""
    error: tuple[str, str] | None = None
    resident_blocks: int = 0
    last_used_s: float = 0.0
    sourced: bool = False
    """Whether descriptors or credentials that a load brought to read the shard are still open."""

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
        window may need blocks again, even while the shard is pinned or held by other loads, since
        the pin or the other loads may end first.
        """
        if not self.loads:
            return False
        return self.holders < len(self.loads) or not self.all_resident(0, self.blocks)

    @property
    def resident_bytes(self) -> int:
        """Shared memory of the resident blocks."""
        whole_bytes = self.resident_blocks * self.block_bytes
        if self.blocks and self.states[-1] == BlockState.RESIDENT:  # it may be a smaller one
            return whole_bytes - (self.blocks * self.block_bytes - self.slab_bytes)
        return whole_bytes

    def bytes_of(self, start: int, stop: int) -> int:
        """Shared memory of blocks `start` to `stop`: a fast form of `layout.blocks_bytes`."""
        if start >= stop:
            return 0
        if stop < self.blocks:
            return (stop - start) * self.block_bytes
        return self.slab_bytes - start * self.block_bytes

    def move(self, block: int, trigger: Trigger) -> BlockState:
        """Move one block along the table, and correct the count of resident blocks."""
        old = self.states[block]
        new = next_state(old, trigger, self.key.uri, block)
        self.states[block] = new
        if new is BlockState.RESIDENT:
            self.resident_blocks += 1
        elif old == BlockState.RESIDENT:
            self.resident_blocks -= 1
        return new

    def move_range(self, start: int, stop: int, trigger: Trigger) -> None:
        """Move several blocks that are all in the same state."""
        old = self.states[start]
        assert self.states.count(old, start, stop) == stop - start, "blocks of different states"
        new = next_state(old, trigger, self.key.uri, start)
        if BlockState.RESIDENT in (old, new):
            sign = 1 if new is BlockState.RESIDENT else -1
            self.resident_blocks += sign * (stop - start)
        self.states[start:stop] = bytes([new]) * (stop - start)

    def change_claims(self, start: int, stop: int, by: int) -> list[int]:
        """Change how many loads claim each of some blocks; returns the new numbers.

        Neighbouring blocks are mostly claimed by the same loads and are then changed together. A
        step of Python for each of the 87,000 blocks of a checkpoint was a fifth of the time that
        opening it took.
        """
        counts = self.claims[start:stop]
        if counts.count(counts[0]) == len(counts):
            counts = [counts[0] + by] * len(counts)
        else:
            counts = [count + by for count in counts]
        self.claims[start:stop] = counts
        return counts

    def all_resident(self, start: int, stop: int) -> bool:
        """Whether blocks `start` to `stop` are all resident; found in one pass in C."""
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

        Room for it must not be committed, and no worker may be at work on any of its blocks.
        """
        at_rest = self.states.count(BlockState.RESIDENT) + self.states.count(BlockState.ABSENT)
        return self.whole_only and not self.committed and at_rest == self.blocks

    def resident_runs(self) -> tuple[tuple[int, int], ...]:
        """The resident blocks as half-open ranges."""
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
        """Whether the slab can be removed: no block reserved or resident, no load, and no pin."""
        return not self.loads and not self.pinned and not any(self.states)

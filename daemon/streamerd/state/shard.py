"""One shard: which of its blocks are resident, and who may not lose them."""

from __future__ import annotations

from dataclasses import dataclass, field

from streamer_client.contract.layout import block_count, slab_bytes
from streamerd.state.events import LoadKey, ShardKey
from streamerd.state.lifecycle import BlockState, Trigger, next_state


@dataclass(slots=True, eq=False)
class Shard:
    """State of one shard and of its slab.

    A block is *claimed* by a load that was granted it or waits for it; a claimed block stays.
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
    attempts: dict[int, int] = field(default_factory=dict)
    loads: dict[LoadKey, int] = field(default_factory=dict)
    """Loads that lease the shard, with the number it has in each."""
    holders: int = 0
    pinned: bool = False
    kept: bool = False
    """Clients of an earlier daemon may have the slab mapped: no block of it is taken away singly.

    It goes as a whole, by unlinking, which leaves its bytes to them; and while a running load
    leases it, it is committed, so that nobody waits for its blocks.
    """
    stale: bool = False
    """Its source changed, or it was evicted: it goes with its last lease, unless opened again."""
    error: tuple[str, str] | None = None
    resident_bytes: int = 0
    last_used_s: float = 0.0
    sourced: bool = False
    """A load brought something to read it through, which was not given up since."""

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
        """Whether a block may still have to be read for somebody who leases it.

        Who holds a shard whole reads nothing of it once all of it is resident. A window may have
        to read blocks again, also of a shard that is pinned, or held by others: they may end that.
        """
        if not self.loads:
            return False
        return self.holders < len(self.loads) or not self.all_resident(0, self.blocks)

    def bytes_of(self, start: int, stop: int) -> int:
        """Shared memory behind blocks `start` to `stop`: `layout.blocks_bytes`, asked often."""
        if start >= stop:
            return 0
        if stop < self.blocks:
            return (stop - start) * self.block_bytes
        return self.slab_bytes - start * self.block_bytes

    def move(self, block: int, trigger: Trigger) -> BlockState:
        """Move one block along the table and keep the count of resident bytes."""
        old = self.states[block]
        new = next_state(old, trigger, where=(self.key.uri, block))
        if new is BlockState.RESIDENT:
            self.resident_bytes += self.bytes_of(block, block + 1)
        elif old == BlockState.RESIDENT:
            self.resident_bytes -= self.bytes_of(block, block + 1)
        self.states[block] = new
        return new

    def move_range(self, start: int, stop: int, trigger: Trigger) -> None:
        """Move blocks that all stand alike."""
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
        """Whether nobody's right stands against taking this block away."""
        return (
            self.states[block] == BlockState.RESIDENT
            and not self.claims[block]
            and not self.committed
            and not self.kept
        )

    @property
    def discardable(self) -> bool:
        """Whether a kept slab can go as a whole: nothing is under way, no running load has it."""
        at_rest = self.states.count(BlockState.RESIDENT) + self.states.count(BlockState.ABSENT)
        return self.kept and not self.committed and at_rest == self.blocks

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
        """No block reserved or resident, nobody interested: the slab can go."""
        return not self.loads and not self.pinned and not any(self.states)

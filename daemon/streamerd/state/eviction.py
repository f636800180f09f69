"""Chooses the resident blocks that are released when room is needed: the order of eviction.

First, shards that no load leases, least recently used first. Then blocks of leased shards that
every load has consumed, oldest first. Last, blocks that only stuck loads still want. Claimed
blocks, held shards and pinned shards are never released.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from streamerd.state.events import LoadKey, ShardKey
from streamerd.state.lifecycle import BlockState
from streamerd.state.load import Load, Phase
from streamerd.state.shard import Shard

Victim = tuple[Shard, int]


@dataclass(slots=True, eq=False)
class Eviction:
    """Finds victims; the core releases them."""

    shards: Mapping[ShardKey, Shard]
    loads: Mapping[LoadKey, Load]
    lag_s: float
    spent: dict[Victim, None] = field(default_factory=dict)
    """Blocks of leased shards that lost their last claim, oldest first. A load may have claimed one
    again, so each is checked before it is released."""
    rescan: bool = False
    """Whether a load has ended or wants other blocks, so that `spent` may lack spent blocks."""

    def unwanted(self) -> Iterator[Victim]:
        """Blocks that no admitted load wants, the best victim first."""
        yield from self._unleased()
        yield from self._spent()

    def _unleased(self) -> Iterator[Victim]:
        # A `whole_only` shard that only waiting loads lease may be replaced by an empty slab.
        idle = [
            s for s in self.shards.values() if (s.whole_only or not s.loads) and not s.committed
        ]
        idle.sort(key=lambda shard: (not shard.stale, shard.last_used_s))
        for shard in idle:
            if shard.whole_only:
                if shard.discardable and shard.resident_bytes:
                    yield shard, 0
                continue
            # Blocks are taken from the end, so that those which the next load reads first remain.
            for block in range(shard.blocks - 1, -1, -1):
                if shard.releasable(block):
                    yield shard, block

    def _spent(self) -> Iterator[Victim]:
        while True:
            last, wanting = None, []  # neighbours are of one shard: its loads are looked up once
            while self.spent:
                shard, block = next(iter(self.spent))
                del self.spent[shard, block]
                if shard is not last:
                    last, wanting = shard, self._admitted_phases(shard)
                if self._is_spent(shard, block, wanting):
                    yield shard, block
            if not self.rescan:
                return
            self.rescan = False
            self.spent = {
                (shard, block): None
                for shard in self._leased()
                for wanting in (self._admitted_phases(shard),)
                for block in range(shard.blocks)
                if self._is_spent(shard, block, wanting)
            }

    def _leased(self) -> Iterator[Shard]:
        return (s for s in self.shards.values() if s.loads and not s.committed)

    def _admitted_phases(self, shard: Shard) -> list[bytearray]:
        """The phases of a shard's blocks for each admitted load that leases the shard."""
        leasing = ((self.loads[key], index) for key, index in shard.loads.items())
        return [load.phases[index] for load, index in leasing if load.admitted]

    def _is_spent(self, shard: Shard, block: int, wanting: list[bytearray]) -> bool:
        if self.shards.get(shard.key) is not shard or not shard.releasable(block):
            return False
        return Phase.WANTED not in [phases[block] for phases in wanting]

    def _wanters(self, shard: Shard, block: int) -> Iterator[Load]:
        for key, index in shard.loads.items():
            load = self.loads[key]
            if load.admitted and load.wants_block(index, block):
                yield load

    def wanted_by_stuck(self, now_s: float) -> Iterator[Victim]:
        """Blocks that only stuck loads want, from the end of each shard."""
        stuck = {
            key
            for key, load in self.loads.items()
            if load.admitted and (self.lagging(load, now_s) or load.stalled())
        }
        if not stuck:
            return
        for shard in reversed(list(self._leased())):
            for block in range(shard.blocks - 1, -1, -1):
                if shard.releasable(block) and all(
                    load.key in stuck for load in self._wanters(shard, block)
                ):
                    yield shard, block

    def lagging(self, load: Load, now_s: float) -> bool:
        """Whether a load has consumed nothing for so long that others no longer wait for it."""
        return now_s - load.last_progress_s > self.lag_s

    def note_unclaimed(self, shard: Shard, block: int) -> None:
        """Put a block that lost its last claim last among the spent blocks."""
        if shard.states[block] == BlockState.RESIDENT:
            self.spent.pop((shard, block), None)
            self.spent[shard, block] = None

    def forget(self, shard: Shard) -> None:
        """Treat a shard whose last lease ended as an unleased one from now on."""
        for victim in [victim for victim in self.spent if victim[0] is shard]:
            del self.spent[victim]

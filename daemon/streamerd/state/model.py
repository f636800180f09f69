"""Everything the core knows: shards, loads, the ledger, and the commands of the current turn.

This module holds the state and the few operations that keep its sums true. The decisions are in the
other modules.

The ledger accounts for the memory limit in two columns. *Used* is memory: bytes that are reserved
for a fetch, are resident, or are on their way back to the system. *Committed* is promises: the
shards that are held whole, and for each other load its smallest window or, where that is more, what
it has claimed. Neither column passes the limit. Every claimed block is covered by a promise, so a
load that stays within its promise always finds room once blocks that nobody claims are released.
Therefore no order of events can end in a deadlock on memory.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from dataclasses import dataclass, field
from typing import Final

import msgspec

from streamer_client.contract.layout import WINDOW_BLOCKS, BlockRange
from streamerd.state.commands import Admit, Announce, AnyCommand
from streamerd.state.events import LoadKey, ShardKey
from streamerd.state.eviction import Eviction
from streamerd.state.load import Load
from streamerd.state.shard import Shard


class Rules(msgspec.Struct, frozen=True):
    """The settings that the core decides by."""

    block_bytes: int
    slots: int
    """Fetches from this machine's files that may be under way at once."""
    remote_slots: int = 32
    """Fetches over the network that may be under way at once, in addition to `slots`."""
    lag_s: float = 30.0
    """A load that consumes nothing for this long no longer holds other loads up."""
    space_wait_s: float = 30.0
    """How long a block waits for room on a full shared-memory mount before its shard fails."""
    attempts: int = 3
    """Workers that may die over one block before its shard fails."""
    credentials_wait_s: float = 60.0
    """How long a load whose credentials expired waits for renewed ones before it fails."""

    @property
    def window_bytes(self) -> int:
        """The smallest window."""
        return WINDOW_BLOCKS * self.block_bytes


GROWTH_QUARTERS: Final = 3
"""Windows grow beyond the smallest until promises fill this many quarters of the limit; the rest is
left for loads that come later."""


@dataclass(slots=True)
class Ledger:
    """The account of the memory limit, in bytes of shared memory."""

    limit_bytes: int
    used_bytes: int = 0
    releasing_bytes: int = 0
    """The part of `used_bytes` that is on its way back to the system."""
    committed_bytes: int = 0
    squeezed_to_bytes: int | None = None
    """The bytes that the mount had room for when it last answered ENOSPC; None after the next
    tick."""

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
        """Bytes to release, beside those on their way, before `size_bytes` can be reserved."""
        return self.used_bytes - self.releasing_bytes + size_bytes - self.usable_bytes

    def can_commit(self, size_bytes: int) -> bool:
        """Whether the limit has room for a promise of `size_bytes` more."""
        return self.committed_bytes + size_bytes <= self.limit_bytes

    @property
    def growth_bytes(self) -> int:
        """Bytes by which windows may still grow; negative if they have grown too far already."""
        return self.limit_bytes * GROWTH_QUARTERS // 4 - self.committed_bytes


@dataclass(slots=True)
class Totals:
    """Counters since the daemon's start, which `status` and the metrics show."""

    served_bytes: int = 0
    block_hits: int = 0
    block_misses: int = 0
    evicted_bytes: int = 0
    retries_by_reason: Counter[str] = field(default_factory=Counter)
    """Number of fetches that were tried again, by the value of the `FailureKind`."""
    errors_by_code: Counter[str] = field(default_factory=Counter)
    """Number of failures of shards, by the code of the error."""

    @property
    def retries(self) -> int:
        return self.retries_by_reason.total()

    @property
    def errors(self) -> int:
        return self.errors_by_code.total()


@dataclass(slots=True, eq=False)
class Model:
    """The whole state of the core, and the commands that the current turn has made so far."""

    rules: Rules
    ledger: Ledger
    shards: dict[ShardKey, Shard] = field(default_factory=dict)
    contents: dict[str, list[Shard]] = field(default_factory=dict)
    """The shards by URI. One URI has several where different contents of its file are in memory."""
    loads: dict[LoadKey, Load] = field(default_factory=dict)
    waiting: deque[LoadKey] = field(default_factory=deque)
    rotation: deque[Load] = field(default_factory=deque)
    """Admitted loads; the first one is the next to fetch a block."""
    fetching: dict[tuple[ShardKey, int], Load] = field(default_factory=dict)
    """Blocks that workers read now, each with the load for which the fetch was started."""
    slots: dict[bool, int] = field(init=False)
    """How many fetches over the network (True) and from local files (False) may be under way."""
    free_slots: dict[bool, int] = field(init=False)
    """How many of these slots are free."""
    totals: Totals = field(default_factory=Totals)
    no_space_since_s: float | None = None
    eviction: Eviction = field(init=False)
    outbox: list[AnyCommand] = field(default_factory=list)
    touched: dict[ShardKey, None] = field(default_factory=dict)
    """Shards whose source may not be needed any more after this turn."""
    arrived: defaultdict[ShardKey, list[int]] = field(default_factory=lambda: defaultdict(list))
    """Claimed blocks that became resident in this turn."""
    granted: defaultdict[LoadKey, list[BlockRange]] = field(
        default_factory=lambda: defaultdict(list)
    )
    admitted: dict[LoadKey, int] = field(default_factory=dict)
    """Loads that were admitted in this turn, each with the wanted bytes that were resident then."""

    def __post_init__(self) -> None:
        self.eviction = Eviction(self.shards, self.loads, self.rules.lag_s)
        self.slots = {False: self.rules.slots, True: self.rules.remote_slots}
        self.free_slots = dict(self.slots)

    def add(self, shard: Shard) -> None:
        """Make a shard known."""
        self.shards[shard.key] = shard
        self.contents.setdefault(shard.key.uri, []).append(shard)

    def remove(self, shard: Shard) -> None:
        """Forget a shard."""
        del self.shards[shard.key]
        others = self.contents[shard.key.uri]
        others.remove(shard)
        if not others:
            del self.contents[shard.key.uri]

    def emit(self, command: AnyCommand) -> None:
        self.outbox.append(command)

    def charge(self, load: Load, delta_bytes: int) -> None:
        """Change what a load is charged for, in bytes, and the ledger's promise with it."""
        before = load.charge_bytes
        load.charge_bytes = after = before + delta_bytes
        if not load.held:
            least = load.window_bytes
            self.ledger.committed_bytes += max(least, after) - max(least, before)

    def take_arrived(self) -> dict[ShardKey, list[int]]:
        """Take out the claimed blocks that became resident in this turn."""
        arrived, self.arrived = self.arrived, defaultdict(list)
        return arrived

    def grant(self, load: Load, blocks: BlockRange, size_bytes: int) -> None:
        """Note that a load may read these blocks; the end of the turn announces all such notes."""
        load.granted_bytes += size_bytes
        load.served_bytes += size_bytes
        self.totals.served_bytes += size_bytes
        ranges = self.granted[load.key]
        if ranges and ranges[-1].stop == blocks.start and ranges[-1].shard == blocks.shard:
            ranges[-1] = BlockRange(blocks.shard, ranges[-1].start, blocks.stop)
        else:
            ranges.append(blocks)

    def drain(self) -> list[AnyCommand]:
        """Take out the commands of this turn; all grants to one load become one command."""
        for key, resident_bytes in self.admitted.items():
            load = self.loads.get(key)
            if load is not None:
                granted = tuple(self.granted.pop(key, ()))
                self.outbox.append(Admit(key, load.held, granted, resident_bytes))
        for key, ranges in self.granted.items():
            if key in self.loads:
                self.outbox.append(Announce(key, tuple(ranges)))
        self.admitted.clear()
        self.granted.clear()
        commands, self.outbox = self.outbox, []
        return commands

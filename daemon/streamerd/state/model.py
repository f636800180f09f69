"""Everything the core knows, and the outbox of one turn.

Holds state and the few operations on it that keep sums true; decides nothing.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import msgspec

from streamer_client.contract.layout import WINDOW_BLOCKS, BlockRange
from streamerd.state.commands import Admit, Announce, AnyCommand
from streamerd.state.events import LoadKey, ShardKey
from streamerd.state.eviction import Eviction
from streamerd.state.ledger import Ledger
from streamerd.state.load import Load
from streamerd.state.shard import Shard


class Rules(msgspec.Struct, frozen=True):
    """What the configuration says to the core."""

    block_bytes: int
    slots: int
    """Fetches from this machine's files that may be under way at once."""
    remote_slots: int = 32
    """Fetches over the network that may be under way at once, beside those."""
    lag_s: float = 30.0
    """A reader that consumes nothing for this long no longer holds the others up."""
    space_wait_s: float = 30.0
    """How long a mount without room is waited for."""
    attempts: int = 3
    """Workers that may die over one block before its shard fails."""
    credentials_wait_s: float = 60.0
    """How long a load whose credentials expired waits for renewed ones before it fails."""

    @property
    def window_bytes(self) -> int:
        """The smallest window."""
        return WINDOW_BLOCKS * self.block_bytes

    def slots_of(self, *, remote: bool) -> int:
        """Slots of one kind; a slow store takes none of a disk's, and the other way round."""
        return self.remote_slots if remote else self.slots


@dataclass(slots=True)
class Totals:
    """Counters since the start, for `status`."""

    served_bytes: int = 0
    block_hits: int = 0
    block_misses: int = 0
    evicted_bytes: int = 0
    retries: int = 0
    errors: int = 0


@dataclass(slots=True, eq=False)
class Model:
    """The world of the core."""

    rules: Rules
    ledger: Ledger
    shards: dict[ShardKey, Shard] = field(default_factory=dict)
    contents: dict[str, list[Shard]] = field(default_factory=dict)
    """The shards by their URI: all contents of one source that are in memory."""
    loads: dict[LoadKey, Load] = field(default_factory=dict)
    waiting: deque[LoadKey] = field(default_factory=deque)
    rotation: deque[LoadKey] = field(default_factory=deque)
    """Admitted loads, the one whose turn it is to fetch first."""
    fetching: dict[tuple[ShardKey, int], LoadKey] = field(default_factory=dict)
    """Blocks under way, and the load that asked first."""
    busy: dict[bool, int] = field(default_factory=lambda: {False: 0, True: 0})
    """How many of `fetching` are remote, and how many are not."""
    totals: Totals = field(default_factory=Totals)
    no_space_since_s: float | None = None
    eviction: Eviction = field(init=False)
    outbox: list[AnyCommand] = field(default_factory=list)
    touched: dict[ShardKey, None] = field(default_factory=dict)
    """Shards whose source may not be needed any more since this turn."""
    arrived: dict[ShardKey, list[int]] = field(default_factory=dict)
    """Claimed blocks that became resident in this turn."""
    granted: dict[LoadKey, list[BlockRange]] = field(default_factory=dict)
    admitted: dict[LoadKey, int] = field(default_factory=dict)
    """Loads admitted in this turn, with the wanted bytes that were resident."""

    def __post_init__(self) -> None:
        self.eviction = Eviction(self.shards, self.loads, self.rules.lag_s)

    def free_slots(self, *, remote: bool) -> int:
        """Fetches of one kind that may still be started."""
        return self.rules.slots_of(remote=remote) - self.busy[remote]

    def add(self, shard: Shard) -> None:
        """Enter a shard."""
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
        """Change what a load has claimed, and the ledger's promise with it."""
        before = load.charge_bytes
        load.charge_bytes = after = before + delta_bytes
        if not load.held:
            least = load.window_bytes
            self.ledger.committed_bytes += max(least, after) - max(least, before)

    def grant(self, load: Load, index: int, start: int, stop: int) -> None:
        """Note that a load may read these blocks; announced once at the end of the turn."""
        size_bytes = load.shards[index].bytes_of(start, stop)
        load.granted_bytes += size_bytes
        self.totals.served_bytes += size_bytes
        ranges = self.granted.setdefault(load.key, [])
        if ranges and ranges[-1].shard == index and ranges[-1].stop == start:
            ranges[-1] = BlockRange(index, ranges[-1].start, stop)
        else:
            ranges.append(BlockRange(index, start, stop))

    def drain(self) -> list[AnyCommand]:
        """The commands of this turn, grants merged to one message a load."""
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

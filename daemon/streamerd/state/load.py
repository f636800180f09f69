"""One load: what a client still wants, what it was promised, and what it holds."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import islice
from math import inf
from typing import Final

from streamer_client.contract.layout import BlockRange
from streamer_client.contract.options import LoadOptions
from streamerd.state.events import LoadKey
from streamerd.state.lifecycle import BlockState
from streamerd.state.shard import Shard


class Phase(IntEnum):
    """How far a block has come for one load; a load stores one byte for each block."""

    NONE = 0
    WANTED = 1
    CLAIMED = 2
    """The block is charged to the load. It is being fetched or will be, and is granted then."""
    GRANTED = 3
    """The client may read it and has not consumed it."""


RUN_BLOCKS: Final = 4
"""Number of neighbouring blocks whose fetches are started together where slots allow it. See
`reading/runs.py`, which backs them with memory in one call."""

SLABS_AT_ONCE: Final = 4
"""Number of shards that a held load fetches from in turn.

The kernel lets only one thread at a time back a slab with memory, so several slabs are filled side
by side. From page cache to slabs, 16 threads on 16 processors reached 4 GB/s into one slab and 14
GB/s into four. On 2 processors four slabs are half as fast again as one.
"""


@dataclass(slots=True)
class Credentials:
    """Whether a store still takes the credentials that came with a load; `failing.py` decides."""

    expired: bool = False
    """Whether the store refused the credentials. If so, they are not used until they are
    renewed."""
    since_s: float = 0.0
    """When the credentials expired. Credentials that expire again soon after their renewal count as
    since the first time, so that useless renewals do not make a load wait for ever."""
    renewed_s: float = -inf
    """When the client last renewed the credentials."""
    error: tuple[str, str] = ("", "")
    """Code and text of the store's last refusal."""


@dataclass(slots=True, eq=False)
class Queued:
    """Claimed blocks of one shard that wait for their fetches; `start` moves on with these."""

    shard: int
    start: int
    stop: int


_FORGET_WANTED = bytes.maketrans(bytes([Phase.WANTED]), bytes([Phase.NONE]))


@dataclass(slots=True, eq=False)
class Load:
    """State of one load.

    `charge_bytes` is the size of the blocks that the load has claimed and not consumed. It is 0 for
    a load that holds its shards whole.
    """

    key: LoadKey
    shards: list[Shard]
    options: LoadOptions
    """The options that the client opened the load with."""
    prefetch: bool = False
    """Whether the load is a prefetch, which no client reads; see `LoadOpened`."""
    pin: bool = False
    window_bytes: int = 0
    """Size of the load's smallest window: room that is set aside from its admission to its end."""
    cap_bytes: int | None = None
    """The load's own `memory_limit`, at least its smallest window; None if it has no limit."""
    admitted: bool = False
    held: bool = False
    """Whether the load's shards are held whole, which it asked for and the ledger has room for."""
    whole: set[int] = field(default_factory=set)
    """Shards that stay whole while the load runs, although it reads through a window.
    `Shard.whole_only` was true for them when the load was admitted."""
    finished: bool = False
    phases: list[bytearray] = field(default_factory=list)
    wants: deque[BlockRange] = field(default_factory=deque)
    claim_order: deque[BlockRange] = field(default_factory=deque)
    to_fetch: deque[Queued] = field(default_factory=deque)
    """Claimed blocks to fetch, roughly in order of use; blocks that are not absent are skipped."""
    last_fetched: int = -1
    """The shard of the last fetch that was started for this load."""
    charge_bytes: int = 0
    run: Queued | None = None
    """The entry of `to_fetch` that the last fetch was taken from."""
    run_left: int = 0
    """Blocks of the run under way that may still be begun."""
    in_flight: int = 0
    pending_blocks: int = 0
    """Number of blocks that are claimed and not yet granted."""
    granted_bytes: int = 0
    served_bytes: int = 0
    """Bytes that the load was granted so far. Bytes that were granted twice count twice."""
    consumed_bytes: dict[int, int] = field(default_factory=dict)
    all_consumed_bytes: int = 0
    """The sum of `consumed_bytes`."""
    failed: set[int] = field(default_factory=set)
    released: set[int] = field(default_factory=set)
    last_progress_s: float = 0.0
    credentials: Credentials = field(default_factory=Credentials)
    remote: bool = field(init=False)
    """Whether the load's shards are read over the network; all of them are of one source."""

    def __post_init__(self) -> None:
        self.phases = [bytearray(shard.blocks) for shard in self.shards]
        self.remote = bool(self.shards) and self.shards[0].remote

    @property
    def commitment_bytes(self) -> int:
        """Bytes that the ledger promises to this load, beside shards that are held whole."""
        return 0 if self.held else max(self.window_bytes, self.charge_bytes)

    def usable(self, index: int) -> bool:
        """Whether blocks of shard `index` may still be granted."""
        return index not in self.failed and index not in self.released

    def want(self, ranges: Iterable[BlockRange]) -> None:
        """Replace the ranges that are wanted and not yet claimed."""
        for index, phases in enumerate(self.phases):
            self.phases[index] = phases.translate(_FORGET_WANTED)
        self.wants.clear()
        for index, start, stop in ranges:
            if not self.usable(index):
                continue
            phases = self.phases[index]
            segment = phases[start:stop]
            phases[start:stop] = segment.replace(b"\x00", bytes([Phase.WANTED]))
            self.wants.append(BlockRange(index, start, stop))

    def wants_block(self, index: int, block: int) -> bool:
        """Whether the load wants the block and has not claimed it; such a block is evicted late."""
        return self.phases[index][block] == Phase.WANTED

    def next_due(self) -> tuple[int, int] | None:
        """The earliest claimed block, in order of use, that was not consumed."""
        while self.claim_order:
            index, start, stop = self.claim_order[0]
            phases = self.phases[index]
            for block in range(start, stop):
                if phases[block] >= Phase.CLAIMED:
                    self.claim_order[0] = BlockRange(index, block, stop)
                    return index, block
            self.claim_order.popleft()
        return None

    def stalled(self) -> bool:
        """Whether the next block in its order of use is absent and nothing is fetched for it."""
        due = self.next_due()
        if due is None or self.in_flight:
            return False
        index, block = due
        return self.shards[index].states[block] == BlockState.ABSENT

    def fetch_later(self, index: int, start: int, stop: int) -> None:
        """Queue claimed blocks, merging neighbours."""
        last = self.to_fetch[-1] if self.to_fetch else None
        if last is not None and last.shard == index and last.stop == start:
            last.stop = stop
        else:
            self.to_fetch.append(Queued(index, start, stop))

    def fetch_first(self, index: int, block: int) -> None:
        """Queue a claimed block before all others, because its last fetch brought nothing."""
        self.to_fetch.appendleft(Queued(index, block, block + 1))

    def clear_queue(self) -> None:
        """Fetch no block for this load until others are queued."""
        self.to_fetch.clear()
        self.run = None

    def next_fetch(self) -> tuple[int, int] | None:
        """The next block of the queue that is still claimed and absent; it stays in the queue."""
        while (queued := self._next_queued()) is not None:
            index, stop = queued.shard, queued.stop
            states, phases = self.shards[index].states, self.phases[index]
            block = states.find(BlockState.ABSENT, queued.start, stop)
            while block >= 0 and phases[block] != Phase.CLAIMED:
                block = states.find(BlockState.ABSENT, block + 1, stop)
            if block >= 0:
                queued.start, self.run = block, queued
                return index, block
            self._remove(queued)
        return None

    def _remove(self, queued: Queued) -> None:
        """Take an entry out of the queue that has no block to fetch any more."""
        place = self.to_fetch.index(queued)
        if queued.shard == self.last_fetched:
            # The run of this entry is over. With the shard of the entry before it as the last
            # one, the turn of the entry behind it comes next.
            self.last_fetched = self.to_fetch[place - 1].shard if place else -1
            self.run_left = 0
        del self.to_fetch[place]
        self.run = None

    def _next_queued(self) -> Queued | None:
        """The entry of the queue to fetch from.

        A load with a window needs its blocks in the order of use, so the entry is the first. A held
        load takes turns, a run of blocks each, among the first few shards of its queue: see
        `SLABS_AT_ONCE`.
        """
        if not self.to_fetch:
            return None
        if not self.held:
            return self.to_fetch[0]
        if self.run_left and self.run is not None:
            return self.run
        first_of: dict[int, Queued] = {}
        for queued in islice(self.to_fetch, 4 * SLABS_AT_ONCE):
            first_of.setdefault(queued.shard, queued)
            if len(first_of) == SLABS_AT_ONCE:
                break
        if self.run_left and self.last_fetched in first_of:
            return first_of[self.last_fetched]
        shards = list(first_of)
        last = shards.index(self.last_fetched) if self.last_fetched in first_of else -1
        return first_of[shards[(last + 1) % len(shards)]]

    def note_fetch(self, index: int) -> None:
        """Note that a fetch was started: for the next block of a run, or the first of a new one."""
        if index != self.last_fetched or not self.run_left:
            self.run_left = RUN_BLOCKS
        self.last_fetched = index
        self.run_left -= 1
        self.in_flight += 1

    def note_claim(self, index: int, start: int, stop: int) -> None:
        """Remember the order of claims, merging neighbours."""
        if self.claim_order:
            last = self.claim_order[-1]
            if last.shard == index and last.stop == start:
                self.claim_order[-1] = BlockRange(index, last.start, stop)
                return
        self.claim_order.append(BlockRange(index, start, stop))

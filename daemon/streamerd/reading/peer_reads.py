"""Reads that are tried at other nodes before the store, and their counters.

This module bounds how many reads of each stage are under way at once. Reads from peers use none of
the store's connections; a read that the plan sends to the store then waits for one of them. Runs in
the daemon's loop; used only if a fleet is configured.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from streamerd.state.events import ShardKey

PEER_READS: Final = 64
"""How many reads from other nodes are under way at once."""


@dataclass(slots=True)
class FleetTotals:
    """Counters of the fleet since the daemon's start, and its members."""

    me: str = ""
    members: frozenset[str] = frozenset()
    members_error: str = ""
    """Why the engine that tells the members does not answer; empty while it does."""
    serving: bool = False
    """Whether the process that serves other nodes runs."""
    restarts: int = 0
    """How often the process that serves other nodes was started again."""
    peer_bytes: int = 0
    """Bytes of blocks that other nodes sent."""
    peer_blocks: int = 0
    store_reads: Counter[str] = field(default_factory=Counter)
    """Number of blocks that were read from the store, by the reason."""
    store_bytes: int = 0
    sent_bytes: int = 0
    """Bytes that were sent to other nodes."""
    answers: Counter[str] = field(default_factory=Counter)
    """Number of answers to other nodes' questions, by kind of answer."""
    connections: int = 0
    """Number of connections of other nodes that are open now."""


class ReadSlots:
    """Lets a bounded number of calls be under way at once; others wait for their turn."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._waiting: deque[Callable[[], None]] = deque()

    def begin(self, call: Callable[[], None]) -> None:
        """Make the call now or later. `end` must be called once when its work is over."""
        if self._free > 0:
            self._free -= 1
            call()
        else:
            self._waiting.append(call)

    def end(self) -> None:
        """Note that the work of one call is over, and make the next call that waits."""
        if self._waiting:
            self._waiting.popleft()()
        else:
            self._free += 1


class PeerReads:
    """The two stages of a read: first peers, then the store.

    Args:
        connections: how many reads from stores may be under way at once.
    """

    def __init__(self, connections: int) -> None:
        self.totals = FleetTotals()
        self.peers = ReadSlots(PEER_READS)
        self.store = ReadSlots(connections)
        self.from_store: set[tuple[ShardKey, int]] = set()
        """Blocks that are read from the store now or next, so that no other node is waited for."""
        self._early: list[Callable[[], None]] | None = []
        """Reads that came before the members were known; None once the members are known."""

    def when_open(self, read: Callable[[], None]) -> None:
        """Make a read once the members are known, or once the time to wait for them is over."""
        if self._early is None:
            read()
        else:
            self._early.append(read)

    def open(self) -> None:
        """Make the reads that waited, and let later reads begin at once. Idempotent."""
        early, self._early = self._early, None
        for read in early or ():
            read()

    @property
    def useful(self) -> bool:
        """Whether the fleet has another member to ask."""
        return len(self.totals.members - {self.totals.me}) > 0

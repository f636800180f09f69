"""Reads that are tried at other nodes before the store, and their counters.

This module bounds how many reads of each stage are under way at once. Reads from peers use none of
the store's connections; a read that the plan sends to the store then waits for one of them. A node
of a fleet uses few of them: blocks that share the way from the store are all whole late, and only a
whole block can be passed on. Runs in the daemon's loop; used only if a fleet is configured.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from streamerd.state.events import ShardKey

PEER_READS: Final = 64
"""How many reads from other nodes are under way at once."""
STALE_S: Final = 0.25
"""How old the plan's decision to read the store may be. An older one is made anew when its turn
comes: nodes that start together learn one after the other that they load the same."""


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


def store_reads_at_once(connections: int, from_store: int, from_peers: int) -> int:
    """How many of a node's blocks are read from the store at once.

    That is the part of `connections` that the store has in all blocks on their way: all of them
    where nobody else loads the same, about a fourth among four nodes, and one among a hundred.

    Args:
        connections: how many reads from stores the daemon may have under way.
        from_store: blocks that are read from the store, or wait for their turn to be. At least 1.
        from_peers: blocks that are searched for at other nodes.
    """
    return -(-connections * from_store // (from_store + from_peers))


class ReadSlots:
    """Lets a bounded number of calls be under way at once; others wait for their turn.

    Args:
        most: how many may be under way now; it is called with how many are under way or wait.
    """

    def __init__(self, most: Callable[[int], int]) -> None:
        self._most = most
        self._waiting: deque[Callable[[], None]] = deque()
        self._going_on = False
        self.under_way = 0

    def begin(self, call: Callable[[], None], *, first: bool = False) -> None:
        """Make the call now or later. `end` must be called once when its work is over.

        Args:
            call: begins the work.
            first: whether the call goes before those that wait already.
        """
        if first:
            self._waiting.appendleft(call)
        else:
            self._waiting.append(call)
        self.go_on()

    def end(self) -> None:
        """Note that the work of one call is over, and make calls that wait."""
        self.under_way -= 1
        self.go_on()

    def go_on(self) -> None:
        """Make calls that wait, as many as may be under way now."""
        if self._going_on:  # a call that ends at once leaves the next one to the loop below
            return
        self._going_on = True
        try:
            while self._waiting and self.under_way < self._most(self.count):
                self.under_way += 1
                self._waiting.popleft()()
        finally:
            self._going_on = False

    @property
    def count(self) -> int:
        """How many calls are under way or wait."""
        return self.under_way + len(self._waiting)


class PeerReads:
    """The two stages of a read: first peers, then the store.

    Args:
        connections: how many reads from stores may be under way at once.
    """

    def __init__(self, connections: int) -> None:
        self.totals = FleetTotals()
        self.peers = ReadSlots(lambda _: PEER_READS)
        self.store = ReadSlots(
            lambda here: store_reads_at_once(connections, here, self.peers.under_way)
        )
        self.from_store: set[tuple[ShardKey, int]] = set()
        """Blocks that are read from the store now or next, so that no other node is waited for."""
        self._early: list[Callable[[], None]] | None = []
        """Reads that came before the members were known; None once the members are known."""

    def end_search(self) -> None:
        """Note that a search at other nodes ended, which leaves the store a larger part."""
        self.peers.end()
        self.store.go_on()

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

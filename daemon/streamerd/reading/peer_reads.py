"""Reads that are tried at other nodes before the store, and what came of them.

Owns how many of each are under way at once: waits for peers take none of the store's connections,
and what the plan sends to the store waits for one of those. Runs in the daemon's loop; used only
where a fleet is configured.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from streamerd.state.events import ShardKey

PEER_READS: Final = 64
"""Reads from other nodes at once."""


@dataclass(slots=True)
class FleetTotals:
    """What the fleet did since the daemon's start, and who is in it."""

    me: str = ""
    members: frozenset[str] = frozenset()
    members_error: str = ""
    """Why what tells the members does not answer; empty while it does."""
    serving: bool = False
    """Whether the process that serves other nodes runs."""
    restarts: int = 0
    """How often that process was started again."""
    peer_bytes: int = 0
    """Of blocks that other nodes sent."""
    peer_blocks: int = 0
    store_reads: Counter[str] = field(default_factory=Counter)
    """Blocks that were read from the store, by the reason."""
    store_bytes: int = 0
    sent_bytes: int = 0
    """Sent to other nodes."""
    answers: Counter[str] = field(default_factory=Counter)
    """To other nodes' questions, by what was answered."""
    connections: int = 0
    """Of other nodes, open now."""


class Lane:
    """At most so many calls at once; others wait for their turn."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._waiting: deque[Callable[[], None]] = deque()

    def begin(self, call: Callable[[], None]) -> None:
        """Make the call now or later; `end` follows once for each."""
        if self._free > 0:
            self._free -= 1
            call()
        else:
            self._waiting.append(call)

    def end(self) -> None:
        """A call's work is over."""
        if self._waiting:
            self._waiting.popleft()()
        else:
            self._free += 1


class PeerReads:
    """The two stages of a read: peers, then the store.

    Args:
        connections: reads from stores at once.
    """

    def __init__(self, connections: int) -> None:
        self.totals = FleetTotals()
        self.peers = Lane(PEER_READS)
        self.store = Lane(connections)
        self.from_store: set[tuple[ShardKey, int]] = set()
        """Blocks that are read from the store, or will be: this node waits for nobody's."""
        self._early: list[Callable[[], None]] | None = []
        """Reads that came before the members were known; None once they are."""

    def when_open(self, read: Callable[[], None]) -> None:
        """Make a read as soon as the members are known, or are not waited for any longer."""
        if self._early is None:
            read()
        else:
            self._early.append(read)

    def open(self) -> None:
        """Make the reads that waited; later ones wait no more. Idempotent."""
        early, self._early = self._early, None
        for read in early or ():
            read()

    @property
    def useful(self) -> bool:
        """Whether there is another node to ask."""
        return len(self.totals.members - {self.totals.me}) > 0

"""Remembers which peers are silent, slow or lied, and which shards a peer does not load.

A peer that disappoints is left out for a while, and for twice as long each time that it disappoints
again. When the time is over, one search tries the peer, while the others go on without it. A peer
that sent wrong bytes is never asked again. Not thread-safe: threads that share a `Standing` hold a
lock around each call of a `Search` that uses it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

FIRST_PAUSE_S: Final = 2.0
ELSEWHERE_PAUSE_S: Final = 0.25
"""The first pause of a peer that does not load a shard. Nodes that start together open it one after
the other, and what a node that is early reads meanwhile is read twice."""
SLOW_PAUSE_S: Final = 60.0
"""The first pause of a peer for which a search waited in vain until its waiting time was over."""
LONGEST_PAUSE_S: Final = 300.0


class _Pause(NamedTuple):
    until_s: float
    next_s: float
    """Seconds that the next pause will last."""


@dataclass(slots=True)
class _Pauses:
    """Peers, or shards of peers, that are left out for growing times."""

    first_s: float
    _pauses: dict[tuple[str, ...], _Pause] = field(default_factory=dict)

    def __contains__(self, thing: tuple[str, ...]) -> bool:
        return thing in self._pauses

    def over(self, thing: tuple[str, ...], at_s: float) -> bool:
        pause = self._pauses.get(thing)
        return pause is None or pause.until_s <= at_s

    def under_way(self, at_s: float) -> Iterator[tuple[str, ...]]:
        """The peers, or pairs of peer and shard, that are left out now."""
        return (thing for thing, pause in self._pauses.items() if pause.until_s > at_s)

    def begin(self, thing: tuple[str, ...], at_s: float) -> None:
        """Leave a thing out; no effect while it is left out, so that one failure counts once."""
        if self.over(thing, at_s):
            pause = self._pauses.get(thing)
            length_s = self.first_s if pause is None else pause.next_s
            self._pauses[thing] = _Pause(at_s + length_s, min(length_s * 2, LONGEST_PAUSE_S))

    def end(self, thing: tuple[str, ...]) -> None:
        self._pauses.pop(thing, None)

    def keep_only(self, members: frozenset[str]) -> None:
        gone = [thing for thing in self._pauses if thing[0] not in members]
        for thing in gone:
            del self._pauses[thing]


class Standing:
    """The peers that are not asked for now, and since when the fleet has not helped."""

    def __init__(self) -> None:
        self._silent = _Pauses(FIRST_PAUSE_S)
        self._slow = _Pauses(SLOW_PAUSE_S)
        self._elsewhere = _Pauses(ELSEWHERE_PAUSE_S)
        self._liars: set[str] = set()
        self.helped_s: float | None = None
        """When a peer last handed a block over; None before the first time."""

    def usable(self, peer: str, shard: str, at_s: float) -> bool:
        """Whether the peer may be asked for blocks of a shard now."""
        return (
            peer not in self._liars
            and self._silent.over((peer,), at_s)
            and self._slow.over((peer,), at_s)
            and self._elsewhere.over((peer, shard), at_s)
        )

    def out(self, shard: str, at_s: float) -> set[str]:
        """The peers that are not `usable`. They are few as a rule; members may be thousands."""
        out = {peer for (peer,) in self._silent.under_way(at_s)}
        out.update(peer for (peer,) in self._slow.under_way(at_s))
        out.update(peer for peer, of in self._elsewhere.under_way(at_s) if of == shard)
        return out | self._liars

    def tried(self, peer: str, at_s: float) -> None:
        """Note that a search asks a peer; the others leave a silent one out until it answers."""
        if (peer,) in self._silent:
            self._silent.begin((peer,), at_s)

    def answered(self, peer: str) -> None:
        """Note that the peer answered, whatever it said."""
        self._silent.end((peer,))

    def helped(self, peer: str, shard: str, at_s: float) -> None:
        """Note that the peer handed a block over whose bytes were right."""
        self._slow.end((peer,))
        self._elsewhere.end((peer, shard))
        self.helped_s = at_s

    def silent(self, peer: str, at_s: float) -> None:
        """Note that the peer could not be reached, did not answer in time, or refused this node."""
        self._silent.begin((peer,), at_s)

    def slow(self, peer: str, at_s: float) -> None:
        """Note that the peer kept saying that it waits for a block until the time was over."""
        self._slow.begin((peer,), at_s)

    def elsewhere(self, peer: str, shard: str, at_s: float) -> None:
        """Note that the peer does not load this shard."""
        self._elsewhere.begin((peer, shard), at_s)

    def lied(self, peer: str) -> None:
        """Note that the peer sent bytes that do not have their checksum."""
        self._liars.add(peer)

    def keep_only(self, members: frozenset[str]) -> None:
        """Forget peers that left the fleet; a liar that comes back must be found out once more."""
        self._liars &= members
        for pauses in (self._silent, self._slow, self._elsewhere):
            pauses.keep_only(members)

"""What a node has learned of its peers: who is silent, who lied, who does not load a shard.

A peer that is left out is asked again after a pause, and each time it disappoints again the pause
doubles. One that sent wrong bytes is never asked again. Not thread-safe: whoever shares a
`Standing` between threads holds a lock around each call of a `Search` that uses it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

FIRST_PAUSE_S: Final = 2.0
SLOW_PAUSE_S: Final = 60.0
"""The first pause of a peer over which a whole waiting time was lost."""
LONGEST_PAUSE_S: Final = 300.0


class _Pause(NamedTuple):
    until_s: float
    length_s: float


@dataclass(slots=True, init=False, eq=False)
class Standing:
    """The peers that are not asked for now, and since when the fleet has not helped."""

    _silent: dict[str, _Pause]
    _elsewhere: dict[tuple[str, str], _Pause]
    _liars: set[str]
    helped_s: float | None
    """When a peer last handed a block over."""

    def __init__(self) -> None:
        self._silent = {}
        self._elsewhere = {}
        self._liars = set()
        self.helped_s = None

    def usable(self, peer: str, shard: str, at_s: float) -> bool:
        """Whether the peer may be asked for blocks of a shard now."""
        if peer in self._liars:
            return False
        pauses = self._silent.get(peer), self._elsewhere.get((peer, shard))
        return all(pause is None or pause.until_s <= at_s for pause in pauses)

    def helped(self, peer: str, shard: str, at_s: float) -> None:
        """The peer handed a block over, whose bytes were right."""
        self._silent.pop(peer, None)
        self._elsewhere.pop((peer, shard), None)
        self.helped_s = at_s

    def silent(self, peer: str, at_s: float) -> None:
        """The peer could not be reached, did not answer in time, or refused this node."""
        self._silent[peer] = _longer(self._silent.get(peer), at_s)

    def slow(self, peer: str, at_s: float) -> None:
        """The peer said again and again that it waits for a block, until the time was over."""
        self._silent[peer] = _longer(self._silent.get(peer), at_s, SLOW_PAUSE_S)

    def elsewhere(self, peer: str, shard: str, at_s: float) -> None:
        """The peer does not load this shard."""
        place = peer, shard
        self._elsewhere[place] = _longer(self._elsewhere.get(place), at_s)

    def lied(self, peer: str) -> None:
        """The peer sent bytes that do not have their checksum."""
        self._liars.add(peer)

    def keep_only(self, members: frozenset[str]) -> None:
        """Forget peers that left the fleet; one that comes back as a liar is found out anew."""
        self._liars &= members
        self._silent = {peer: pause for peer, pause in self._silent.items() if peer in members}
        self._elsewhere = {
            place: pause for place, pause in self._elsewhere.items() if place[0] in members
        }


def _longer(before: _Pause | None, at_s: float, least_s: float = FIRST_PAUSE_S) -> _Pause:
    """The next pause. Several requests that were under way at once count as one disappointment."""
    if before is None:
        return _Pause(at_s + least_s, least_s)
    if at_s < before.until_s:
        return before
    length_s = max(least_s, min(before.length_s * 2, LONGEST_PAUSE_S))
    return _Pause(at_s + length_s, length_s)

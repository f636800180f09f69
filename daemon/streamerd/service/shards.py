"""The backings of the core's shards, and the shards that failed lately.

This module owns the backings. A backing is entered before the event that opens its shard, and is
removed after the core has forgotten the shard. If the core refuses the load, it never knows the
shard, so the backing is removed after that turn. Runs in the daemon's loop; leaves slabs to
`slabs.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from streamer_client.contract.layout import block_count
from streamer_client.storage.contract import StoredShard
from streamerd.reading.backing import Backing, Name, shard_id
from streamerd.reading.checksums import Checksums
from streamerd.reading.sources import Pair, Sources
from streamerd.service.views import ModelView
from streamerd.state.events import ShardKey

RECENT_FAILURES: Final = 100
"""Number of failed shards that `status` shows after their last lease ended."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A shard that could not be brought in."""

    id: str
    size_bytes: int
    code: str
    message: str


class Shards:
    """The backings by shard, and the failures by name.

    Args:
        model: which shards the core knows.
        sources: the descriptors that local shards are read through.
        block_bytes: size of a block.
    """

    def __init__(self, model: ModelView, sources: Sources, block_bytes: int) -> None:
        self._model = model
        self._sources = sources
        self._block_bytes = block_bytes
        self._backings: dict[ShardKey, Backing] = {}
        self._failures: dict[str, Failure] = {}
        self._touched: list[ShardKey] = []
        """Shards that were entered, got a source or lost their slab since the last turn."""
        self._departures: list[tuple[tuple[ShardKey, ...], Callable[[], None]]] = []
        """Evicted shards, and the function to call when their memory is free."""

    @property
    def backings(self) -> Mapping[ShardKey, Backing]:
        """The backings by shard. Other rooms may note figures in a backing, but not add one."""
        return self._backings

    @property
    def failures(self) -> Mapping[str, Failure]:
        """The shards that failed lately, by the name that `status` shows."""
        return self._failures

    # --- entries --------------------------------------------------------------------------------

    def enter(self, key: ShardKey, stored: StoredShard, name: Name) -> Backing:
        """Make the backing of a shard that a client is about to open, unless it exists."""
        backing = self._backings.get(key)
        if backing is None:
            blocks = block_count(stored.size_bytes, self._block_bytes)
            backing = self.add(key, Backing(stored, Checksums(blocks)))
        backing.note_name(name)
        self._failures.pop(stored.uri, None)
        return backing

    def add(self, key: ShardKey, backing: Backing) -> Backing:
        """Enter a backing that was made elsewhere, as adoption does."""
        self._backings[key] = backing
        self._touched.append(key)
        return backing

    def offer_source(self, key: ShardKey, pair: Pair) -> None:
        """Add a pair of descriptors to read a shard through; released if it is not needed."""
        self._sources.offer(key, pair)
        self._touched.append(key)

    def slab_removed(self, key: ShardKey) -> None:
        """Note that a shard has no slab any more; after this turn its backing may go, too."""
        self._touched.append(key)

    def after_turn(self) -> None:
        """Remove the backings of shards that the core has forgotten.

        This must not happen while commands are carried out, since a shard may be opened again in
        the turn that removes it.
        """
        touched, self._touched = self._touched, []
        for key in touched:
            shard = self._model.shards.get(key)
            if shard is None:
                self._backings.pop(key, None)
            if shard is None or not shard.sourced:
                self._sources.close(key)
        self._tell_departures()

    # --- failures -------------------------------------------------------------------------------

    def note_failure(self, shard: ShardKey, size_bytes: int, code: str, message: str) -> str:
        """Remember that a shard failed; returns the name that `status` shows for the shard."""
        uri = self._backings[shard].stored.uri
        self._failures[uri] = Failure(shard_id(shard), size_bytes, code, message)
        while len(self._failures) > RECENT_FAILURES:
            self._failures.pop(next(iter(self._failures)))
        return uri

    def forget_failures(self) -> None:
        """Forget all failures, so that `status` shows none of them any more."""
        self._failures.clear()

    # --- evictions ------------------------------------------------------------------------------

    def when_gone(self, shards: tuple[ShardKey, ...], then: Callable[[], None]) -> None:
        """Call `then` once the memory of evicted shards is free, or loads use them again."""
        self._departures.append((shards, then))
        self._tell_departures()

    def _tell_departures(self) -> None:
        known = self._model.shards
        for departure in list(self._departures):
            shards, then = departure
            if not any(shard in known and not known[shard].loads for shard in shards):
                self._departures.remove(departure)
                then()

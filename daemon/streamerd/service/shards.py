"""What stands behind each shard of the core, and the shards that failed lately.

Owns the backings: one is entered before the event that opens its shard, and goes when the core has
forgotten the shard. So an entry whose load the core refused goes after that same turn. Runs in the
daemon's loop; leaves slabs to `slabs.py`.
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
"""Failed shards that `status` remembers after their last lease ended."""


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
        sources: what local shards are read through.
        block_bytes: size of a block.
    """

    def __init__(self, model: ModelView, sources: Sources, block_bytes: int) -> None:
        self._model = model
        self._sources = sources
        self._block_bytes = block_bytes
        self._backings: dict[ShardKey, Backing] = {}
        self._failures: dict[str, Failure] = {}
        self._touched: list[ShardKey] = []
        """Shards that were entered, offered a source or removed since the last turn."""
        self._departures: list[tuple[tuple[ShardKey, ...], Callable[[], None]]] = []
        """Evicted shards, and what to call when their memory is free."""

    @property
    def backings(self) -> Mapping[ShardKey, Backing]:
        """The backings, for reading and for what they let others note."""
        return self._backings

    @property
    def failures(self) -> Mapping[str, Failure]:
        """The shards that failed lately, by the name that `status` shows."""
        return self._failures

    # --- entries --------------------------------------------------------------------------------

    def enter(self, key: ShardKey, stored: StoredShard, name: Name) -> Backing:
        """Have something stand behind a shard that a client is about to open."""
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
        """Have what a shard can be read through; given up if the core reads nothing of it."""
        self._sources.offer(key, pair)
        self._touched.append(key)

    def slab_removed(self, key: ShardKey) -> None:
        """A shard has no slab any more; after this turn it may have nothing at all."""
        self._touched.append(key)

    def after_turn(self) -> None:
        """Forget what the core has forgotten.

        Not while commands are carried out: a shard may be opened again in the turn that removes it.
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
        """Remember that a shard could not be brought in; the name that `status` shows for it."""
        uri = self._backings[shard].stored.uri
        self._failures[uri] = Failure(shard_id(shard), size_bytes, code, message)
        while len(self._failures) > RECENT_FAILURES:
            self._failures.pop(next(iter(self._failures)))
        return uri

    def forget_failures(self) -> None:
        """Show none of them any more."""
        self._failures.clear()

    # --- evictions ------------------------------------------------------------------------------

    def when_gone(self, shards: tuple[ShardKey, ...], then: Callable[[], None]) -> None:
        """Call `then` once the memory of evicted shards is free, or somebody uses them again."""
        self._departures.append((shards, then))
        self._tell_departures()

    def _tell_departures(self) -> None:
        known = self._model.shards
        for departure in list(self._departures):
            shards, then = departure
            if not any(shard in known and not known[shard].loads for shard in shards):
                self._departures.remove(departure)
                then()

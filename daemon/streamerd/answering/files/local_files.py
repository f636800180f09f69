"""Makes shards of the core of local files that clients handed over.

For an examined file, this module finds its shard, the descriptors to read it through and its user's
name for it. It also has its bytes in memory checked against the file. Runs in the daemon's loop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from streamer_client.contract.checks import check_shards
from streamer_client.contract.errors import SourceChanged, StreamerError
from streamer_client.storage.contract import StoredShard
from streamerd.answering.files.comparisons import Comparisons
from streamerd.answering.files.doubts import Doubts
from streamerd.answering.files.handovers import Handed
from streamerd.control.sessions import Session
from streamerd.reading.backing import Name
from streamerd.reading.editions import Editions, twin
from streamerd.reading.sources import Pair
from streamerd.service.shards import Shards
from streamerd.service.views import ModelView
from streamerd.state.events import LoadKey, ShardKey

MOST_ROUNDS: Final = 3
"""How many rounds of doubts may follow each other in one open before the open fails."""


class FoundShard(NamedTuple):
    """One shard that a request asks for: a file that was handed over, or an object of a store."""

    key: ShardKey
    name: str
    """The client's name for the shard."""
    stored: StoredShard


class LocalFiles:
    """Turns transfers' files into shards.

    Args:
        model: the shards that the core knows.
        shards: where the files are entered.
        editions: tells which shard a file is.
        doubts: reads files again that were touched.
        comparisons: compares files with their blocks in memory.
        block_bytes: size of a block.
    """

    def __init__(
        self,
        model: ModelView,
        shards: Shards,
        editions: Editions,
        doubts: Doubts,
        comparisons: Comparisons,
        block_bytes: int,
    ) -> None:
        self._model = model
        self._shards = shards
        self._editions = editions
        self._doubts = doubts
        self._comparisons = comparisons
        self._block_bytes = block_bytes

    def pairs(self, files: Sequence[Handed]) -> dict[ShardKey, Pair]:
        """The pairs of these files, by the shard of each file, in memory or not."""
        key_of = self._editions.key_of
        return {key_of(file.pair.stored.identity): file.pair for file in files}

    def admit(
        self,
        session: Session,
        load: LoadKey,
        files: Sequence[Handed],
        then: Callable[[tuple[FoundShard, ...]], None],
        failed: Callable[[StreamerError], None],
    ) -> None:
        """Call `then` with the shards once no doubt about them is left, or else `failed`.

        From then on each shard may be read through these files, or those that the same user brought
        before, and its resident blocks are being compared with the file for `load`.
        """
        try:
            sizes = ((file.name, file.pair.stored.size_bytes) for file in files)
            check_shards(sizes, self._block_bytes)
        except StreamerError as error:
            failed(error)
            return
        retained = [file.pair.retain() for file in files]  # the transfer may end too early

        def settled(keys: Sequence[ShardKey]) -> None:
            then(self._admitted(session, load, files, keys))
            _release(retained)

        def refused(error: StreamerError) -> None:
            failed(error)
            _release(retained)

        self._settle(files, settled, refused, MOST_ROUNDS)

    def _admitted(
        self,
        session: Session,
        load: LoadKey,
        files: Sequence[Handed],
        keys: Sequence[ShardKey],
    ) -> tuple[FoundShard, ...]:
        shards = tuple(
            self._enter(session, file, key) for file, key in zip(files, keys, strict=True)
        )
        self._comparisons.begin(
            load, [(key, file.pair) for file, key in zip(files, keys, strict=True)]
        )
        return shards

    def _keys(self, files: Sequence[Handed]) -> list[ShardKey]:
        keys: dict[ShardKey, None] = {}
        for file in files:
            key = self._editions.key_of(file.pair.stored.identity)
            keys[twin(key, len(keys)) if key in keys else key] = None
        return list(keys)

    def _settle(
        self,
        files: Sequence[Handed],
        settled: Callable[[Sequence[ShardKey]], None],
        failed: Callable[[StreamerError], None],
        rounds: int,
    ) -> None:
        """Resolve all doubts about these files, and the doubts that come meanwhile."""
        keys = self._keys(files)
        doubted = [
            (key, file.pair)
            for file, key in zip(files, keys, strict=True)
            if self._doubts.about(key, file.pair)
        ]
        if not doubted:
            settled(keys)
            return
        if not rounds:
            name = doubted[0][1].stored.uri
            failed(SourceChanged(f"{name}: it changes while it is opened; open it again later"))
            return
        left = len(doubted)
        first_error: StreamerError | None = None

        def resolved(error: StreamerError | None) -> None:
            nonlocal left, first_error
            left -= 1
            first_error = first_error or error
            if not left and first_error is not None:
                failed(first_error)
            elif not left:
                self._settle(files, settled, failed, rounds - 1)

        for key, pair in doubted:
            self._doubts.resolve(key, pair, resolved)

    def _enter(self, session: Session, file: Handed, key: ShardKey) -> FoundShard:
        stored = file.pair.stored
        backing = self._shards.enter(key, stored, Name(session.uid, session.world, file.name))
        shard = self._model.shards.get(key)
        if shard is None or not any(shard.states):
            backing.ctime_ns = file.pair.ctime_ns
        self._shards.offer_source(key, file.pair)
        return FoundShard(key, file.name, stored)


def _release(pairs: Sequence[Pair]) -> None:
    for pair in pairs:
        pair.release()

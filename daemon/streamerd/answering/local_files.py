"""Local files that clients handed over, made into shards of the core.

Owns the step from an examined file to a shard: which one it is, what it is read through from now
on, what its user calls it, and that what is in memory of it is still what the file holds. Runs in
the daemon's loop.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from streamer_client.contract.checks import check_shards
from streamer_client.contract.errors import SourceChanged, StreamerError
from streamer_client.contract.layout import block_count
from streamer_client.storage.contract import StoredShard
from streamerd.answering.comparisons import Comparisons
from streamerd.answering.doubts import Doubts
from streamerd.answering.handovers import Handed
from streamerd.control.sessions import Session
from streamerd.reading.backing import Backing, Name
from streamerd.reading.checksums import Checksums
from streamerd.reading.editions import twin
from streamerd.reading.sources import Pair
from streamerd.service import Service
from streamerd.state.events import LoadKey, ShardKey

logger = logging.getLogger(__name__)

MOST_ROUNDS: Final = 3
"""Doubts about one open that may follow each other before it is given up."""


class LocalShard(NamedTuple):
    """One file of a load."""

    key: ShardKey
    name: str
    """As its client calls it."""
    stored: StoredShard


class LocalFiles:
    """Turns transfers' files into shards.

    Args:
        service: whose shards.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._doubts = Doubts(service)
        self.comparisons = Comparisons(service, self._doubts.supersede)
        self._doubts.touched = self._touched
        self._doubts.superseded = self._superseded
        service.fetches.is_outdated = self._doubts.is_outdated
        service.is_comparing = self.comparisons.waits

    def pairs(self, files: Sequence[Handed]) -> dict[ShardKey, Pair]:
        """The files by the shards that they are, in memory or not."""
        key_of = self._service.editions.key_of
        return {key_of(file.pair.stored.identity): file.pair for file in files}

    def admit(
        self,
        session: Session,
        load: LoadKey,
        files: Sequence[Handed],
        then: Callable[[tuple[LocalShard, ...]], None],
        failed: Callable[[StreamerError], None],
    ) -> None:
        """Call `then` with the shards once nothing about them is in doubt, or `failed`.

        From then on each shard is read through these files or those of the same user before, and
        what is in memory is being compared with them for `load`.
        """
        try:
            sizes = ((file.name, file.pair.stored.size_bytes) for file in files)
            check_shards(sizes, self._service.settings.block_bytes)
        except StreamerError as error:
            failed(error)
            return
        kept = [file.pair.retain() for file in files]  # the transfer may end before the doubts do

        def settled(keys: Sequence[ShardKey]) -> None:
            then(self._admitted(session, load, files, keys))
            _release(kept)

        def refused(error: StreamerError) -> None:
            failed(error)
            _release(kept)

        self._settle(files, settled, refused, MOST_ROUNDS)

    def _admitted(
        self,
        session: Session,
        load: LoadKey,
        files: Sequence[Handed],
        keys: Sequence[ShardKey],
    ) -> tuple[LocalShard, ...]:
        shards = tuple(
            self._enter(session, file, key) for file, key in zip(files, keys, strict=True)
        )
        self.comparisons.begin(
            load, [(key, file.pair) for file, key in zip(files, keys, strict=True)]
        )
        return shards

    def _keys(self, files: Sequence[Handed]) -> list[ShardKey]:
        keys: dict[ShardKey, None] = {}
        for file in files:
            key = self._service.editions.key_of(file.pair.stored.identity)
            keys[twin(key, len(keys)) if key in keys else key] = None
        return list(keys)

    def _settle(
        self,
        files: Sequence[Handed],
        settled: Callable[[Sequence[ShardKey]], None],
        failed: Callable[[StreamerError], None],
        rounds: int,
    ) -> None:
        """Resolve all doubts, and those that came meanwhile."""
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

    def _enter(self, session: Session, file: Handed, key: ShardKey) -> LocalShard:
        service, stored = self._service, file.pair.stored
        backing = service.backings.get(key)
        if backing is None:
            blocks = block_count(stored.size_bytes, service.settings.block_bytes)
            backing = service.enter(key, Backing(stored, Checksums(blocks)))
        shard = service.model.shards.get(key)
        if shard is None or not any(shard.states):
            backing.ctime_ns = file.pair.ctime_ns
        backing.note_name(Name(session.uid, session.world, file.name))
        service.failures.pop(stored.uri, None)
        service.offer_source(key, file.pair)
        return LocalShard(key, file.name, stored)

    def _superseded(self, key: ShardKey) -> None:
        shard = self._service.model.shards.get(key)
        self.comparisons.refute(shard.loads if shard is not None else ())

    def _touched(self, key: ShardKey, pair: Pair, ctime_ns: int) -> None:
        """A file was touched while loads read it: they go on, and count once it is looked at."""
        shard = self._service.model.shards.get(key)
        loads = tuple(shard.loads) if shard is not None else ()
        for load in loads:
            self.comparisons.hold(load)

        def resolved(error: StreamerError | None) -> None:
            if error is not None:
                self.comparisons.refuse_all(loads, key, error)
            for load in loads:
                self.comparisons.let_go(load)

        self._doubts.resolve(key, pair, resolved, ctime_ns)


def _release(pairs: Sequence[Pair]) -> None:
    for pair in pairs:
        pair.release()

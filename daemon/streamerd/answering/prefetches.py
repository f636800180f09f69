"""Handles prefetches: loads that the daemon itself owns.

A prefetch goes on when the client that asked has left, so it is counted against its user. This
module owns these counts. Runs in the daemon's loop.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from streamer_client.contract.errors import ConfigError, RequestRefused, StreamerError
from streamer_client.contract.layout import BlockRange, block_count
from streamer_client.contract.limits import MAX_PREFETCHES_PER_USER
from streamer_client.contract.messages import Prefetch
from streamer_client.contract.sizes import format_size
from streamerd.answering.cache import Cache
from streamerd.answering.files.local_files import FoundShard
from streamerd.answering.openings import Openings, specs_of
from streamerd.answering.requests import Replies, Requests
from streamerd.control.sessions import Session
from streamerd.service.answers import Answers
from streamerd.service.views import Events, ModelView
from streamerd.state.events import LoadKey, LoadOpened

PREFETCH_OWNER: Final = ""
"""The owner of prefetches, which is the daemon itself. No session has this name."""


class Prefetches:
    """Handles `Prefetch`.

    Args:
        replies: answers prefetches that fail.
        model: the prefetches that the core knows.
        events: takes the event that a prefetch was opened.
        openings: finds shards.
        answers: the prefetches that await the core's decision.
        cache: remembers which user pinned which shards.
        block_bytes: size of a block.
    """

    def __init__(
        self,
        replies: Replies,
        model: ModelView,
        events: Events,
        openings: Openings,
        answers: Answers,
        cache: Cache,
        block_bytes: int,
    ) -> None:
        self._replies = replies
        self._model = model
        self._events = events
        self._openings = openings
        self._answers = answers
        self._cache = cache
        self._block_bytes = block_bytes
        self._made = 0
        self._users: dict[LoadKey, int] = {}
        """The user of each prefetch that is under way, and of some that have ended."""
        self._finding: set[LoadKey] = set()
        """The prefetches whose shards are being found."""

    def register(self, requests: Requests) -> None:
        """Register the handler of `Prefetch` in the table."""
        requests.on(Prefetch, self._prefetch)

    def under_way(self, uid: int) -> int:
        """How many prefetches of a user are not done."""
        running = self._model.loads.keys() | self._answers.awaited | self._finding
        self._users = {key: user for key, user in self._users.items() if key in running}
        return Counter(self._users.values())[uid]

    def _prefetch(self, session: Session, message: Prefetch) -> None:
        mine = self.under_way(session.uid)
        if mine >= MAX_PREFETCHES_PER_USER:
            raise RequestRefused(
                f"user {session.uid} has {mine} prefetches under way, and no more may be; wait "
                "until some are done"
            )
        self._made += 1
        key = LoadKey(PREFETCH_OWNER, self._made)

        def found(shards: tuple[FoundShard, ...]) -> None:
            self._finding.discard(key)
            self._replies.attempt(
                session, message, lambda: self._begin(session, key, message, shards)
            )

        def failed(error: StreamerError) -> None:
            self._finding.discard(key)
            self._replies.refuse(session, message, error)

        self._users[key] = session.uid
        self._finding.add(key)
        self._openings.find(session, key, message, found, failed)

    def _begin(
        self,
        session: Session,
        key: LoadKey,
        message: Prefetch,
        shards: tuple[FoundShard, ...],
    ) -> None:
        chosen, wants = first_bytes(shards, message.limit_bytes, self._block_bytes)
        event = LoadOpened(
            self._events.now_s,
            key,
            specs_of(chosen),
            wants,
            prefetch=True,
            pin=message.pin,
        )
        if message.pin:
            self._cache.note_pins(session, [shard.key for shard in chosen])
        self._openings.begin(session, event, message, chosen)


def first_bytes(
    shards: Sequence[FoundShard], limit_bytes: int, block_bytes: int
) -> tuple[tuple[FoundShard, ...], tuple[BlockRange, ...]]:
    """The shards, and of each the whole blocks, within the first `limit_bytes` (-1: all of them).

    Raises:
        ConfigError: not even one block fits.
    """
    chosen: list[FoundShard] = []
    wants: list[BlockRange] = []
    left = limit_bytes
    for shard in shards:
        size_bytes = shard.stored.size_bytes
        blocks = block_count(size_bytes, block_bytes)
        if limit_bytes >= 0:
            blocks = blocks if left >= size_bytes else left // block_bytes
            left -= min(left, size_bytes)
        if blocks or not size_bytes:
            wants.append(BlockRange(len(chosen), 0, blocks))
            chosen.append(shard)
    if not chosen:
        raise ConfigError(
            f"--memory-limit {format_size(limit_bytes)} is less than one block of "
            f"{format_size(block_bytes)}"
        )
    return tuple(chosen), tuple(wants)

"""What local shards are read through: descriptors that clients opened with their own rights.

Owns each received pair (one descriptor that reads the page cache, one for O_DIRECT where the file
system takes it) until nobody needs it, and which pair a shard is read through now. A shard has
one pair of each user who brought one, a few at most; a pair that failed is passed over while
another is left. Runs in the daemon's loop, which never asks a descriptor anything, nor closes one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from streamer_client.storage.contract import StoredShard
from streamerd.state.events import ShardKey
from streamerd.workers.in_daemon.lending import Lending

MOST_PAIRS: Final = 4
"""Pairs of one shard: what a fifth user brings would be read through only if four others failed."""


class Pair:
    """One file as one client opened it; given up when the last of its users has released it.

    Args:
        lending: lends the descriptors to workers.
        discard: closes descriptors, elsewhere than in the loop.
        stored: size and identity as a worker found them; its `uri` is what the client calls it.
        ctime_ns: time of the last change of the file's inode, when it was examined.
        uid: the client's user.
        descriptors: one or two; this object closes them.
    """

    def __init__(
        self,
        lending: Lending,
        discard: Callable[[Sequence[int]], None],
        stored: StoredShard,
        ctime_ns: int,
        uid: int,
        descriptors: tuple[int, ...],
    ) -> None:
        self.stored = stored
        self.ctime_ns = ctime_ns
        """When the file was last changed, as far as it was looked at through this."""
        self.uid = uid
        self.failed = False
        self._descriptors = descriptors
        self._lending = lending
        self._discard = discard
        self._handle = 0
        self._users = 1

    @property
    def plain(self) -> int:
        """The descriptor that reads the page cache."""
        return self._descriptors[0]

    @property
    def handle(self) -> int:
        """The number by which workers know it, made when it is first asked for.

        Most pairs, those of resident shards, never need one.
        """
        if not self._handle:
            self._handle = self._lending.put_source(self.stored, self._descriptors)
        return self._handle

    def retain(self) -> Pair:
        """Note one more user."""
        self._users += 1
        return self

    def release(self) -> None:
        """Note that a user is done; the last one gives the descriptors up."""
        self._users -= 1
        if self._users:
            return
        if self._handle:
            self._lending.take_back(self._handle)
        self._discard(self._descriptors)


class Sources:
    """The pairs of each shard."""

    def __init__(self) -> None:
        self._of: dict[ShardKey, list[Pair]] = {}

    def offer(self, shard: ShardKey, pair: Pair) -> Pair:
        """Have a pair for a shard, unless its user brought one before or there are enough.

        Returns:
            The user's pair that the shard has, or `pair` itself where enough others are.
        """
        pairs = self._of.setdefault(shard, [])
        for known in list(pairs):
            if known is pair or (known.uid == pair.uid and not known.failed):
                return known
            if known.uid == pair.uid:
                pairs.remove(known)
                known.release()
        if len(pairs) < MOST_PAIRS:
            pairs.append(pair.retain())
        return pair

    def reading(self, shard: ShardKey) -> Pair | None:
        """The pair to read a shard through; None where none is left."""
        for pair in self._of.get(shard, ()):
            if not pair.failed:
                return pair
        return None

    def refuse(self, shard: ShardKey, handle: int) -> bool:
        """Pass over a pair through which reading failed. Returns whether another is left."""
        for pair in self._of.get(shard, ()):
            if pair.handle == handle:
                pair.failed = True
        return self.reading(shard) is not None

    def close(self, shard: ShardKey) -> None:
        """Nothing is left to read from this shard's source."""
        for pair in self._of.pop(shard, ()):
            pair.release()

    def close_all(self) -> None:
        """Nothing is read any more."""
        for shard in list(self._of):
            self.close(shard)

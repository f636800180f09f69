"""Owns the descriptors of local shards, which clients opened with their own rights.

A pair is one descriptor that reads the page cache, and one for O_DIRECT where the file system
allows that. This module owns each received pair until it is not needed any more, and chooses the
pair to read a shard through. A shard has one pair for each user who brought one, a few at most. A
pair that failed is passed over while another is left. Runs in the daemon's loop, which neither
examines nor closes a descriptor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from streamer_client.storage.contract import StoredShard
from streamerd.state.events import ShardKey
from streamerd.workers.in_daemon.lending import Lending

MOST_PAIRS: Final = 4
"""The most pairs of one shard. A fifth user's pair would be used only if four others failed."""


class Pair:
    """One file as one client opened it. Its descriptors are closed after its last `release`.

    Args:
        lending: lends the descriptors to workers.
        discard: closes descriptors, elsewhere than in the loop.
        stored: size and identity as a worker found them, with the client's name as `uri`.
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
        """The file's ctime when a worker last looked at the file through this pair."""
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
        """The handle by which workers know this pair, made when it is first asked for.

        Most pairs belong to resident shards and never need a handle.
        """
        if not self._handle:
            self._handle = self._lending.put_source(self.stored, self._descriptors)
        return self._handle

    def retain(self) -> Pair:
        """Note one more part of the daemon that uses the pair."""
        self._users += 1
        return self

    def release(self) -> None:
        """Note that one use has ended; the last one has the descriptors closed."""
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
        """Add a pair to a shard, unless its user brought one before or the shard has enough.

        Returns:
            The pair of this user that the shard has; `pair` itself if the shard has enough others.
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
        """The pair to read a shard through; None if no pair is left."""
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
        """Release a shard's pairs, since nothing of it has to be read any more."""
        for pair in self._of.pop(shard, ()):
            pair.release()

    def close_all(self) -> None:
        """Release the pairs of all shards, at the daemon's end."""
        for shard in list(self._of):
            self.close(shard)

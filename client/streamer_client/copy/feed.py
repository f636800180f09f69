"""Where a checkpoint's bytes come from, for those who read tensors out of it.

A feed shows the shards as files and hands out their blocks. A reader makes *passes*: it names the
blocks it will use, in order, then waits for each, reads from it and gives it back. One pass runs at
a time; a new one ends the one before. What is read never passes through a buffer of the feed.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple, Protocol, assert_never

from streamer_client.contract.errors import StreamerError
from streamer_client.contract.layout import BlockRange


class FeedShard(NamedTuple):
    """One shard; its number is its place in `Feed.shards`."""

    uri: str
    size_bytes: int


class Route(StrEnum):
    """The way that bytes take from storage to a reader; the value is what users are shown."""

    DAEMON = "daemon"
    """Through the daemon's shared memory."""
    DIRECT = "direct"
    """Read by this process, without a daemon."""
    MIXED = "daemon+direct"
    """Begun through the daemon, and read on by this process."""
    PAGE_CACHE = "page-cache"
    """Read by this process from the page cache; the daemon brings the files in afterwards."""


class Copies(NamedTuple):
    """Bytes that a pass copied, by where it had them from."""

    daemon: int = 0
    page_cache: int = 0
    direct: int = 0

    @classmethod
    def of(cls, size_bytes: int, route: Route, direct_bytes: int) -> Copies:
        """What a pass copied.

        Args:
            size_bytes: all of it.
            route: the route of the pass, as it was at its end.
            direct_bytes: how many of them this process read itself, where that is a part.
        """
        match route:
            case Route.DAEMON:
                return cls(daemon=size_bytes)
            case Route.PAGE_CACHE:
                return cls(page_cache=size_bytes)
            case Route.DIRECT:
                return cls(direct=size_bytes)
            case Route.MIXED:
                direct_bytes = min(size_bytes, direct_bytes)
                return cls(daemon=size_bytes - direct_bytes, direct=direct_bytes)
            case _:
                assert_never(route)


class FeedClosed(StreamerError):
    """The pass that a reader is in was ended, by closing the checkpoint or by another pass."""

    def __init__(self) -> None:
        super().__init__(
            "the checkpoint was closed, or read by another iteration, while this one was running; "
            "finish one before the next, or open the checkpoint once for each"
        )


class Image(Protocol):
    """A file that holds a shard's bytes at their own offsets; open as long as it is referenced."""

    @property
    def fd(self) -> int: ...

    @property
    def stays(self) -> bool:
        """Whether it keeps its length as long as the feed is open, so that it may be mapped."""
        ...

    def ended(self, told: str) -> StreamerError:
        """The error for `told`, which lies past the end of the file."""
        ...


class Feed(Protocol):
    """A checkpoint's blocks. Thread-safe, except that one thread begins and ends passes."""

    @property
    def shards(self) -> tuple[FeedShard, ...]: ...

    @property
    def block_bytes(self) -> int: ...

    @property
    def resident_bytes(self) -> int:
        """Bytes that were in memory when the checkpoint was opened."""
        ...

    @property
    def route(self) -> Route:
        """The way that blocks come now; `LoadStats.mode` shows it."""
        ...

    @property
    def direct_bytes(self) -> int:
        """What this process has read of it by itself so far."""
        ...

    @property
    def read_ahead_bytes(self) -> int:
        """Private memory that may be filled beyond the tensor that is handed out next."""
        ...

    @property
    def threads(self) -> int:
        """How many threads to read with."""
        ...

    def begin(self, order: Sequence[BlockRange]) -> int:
        """Begin a pass over these blocks, which come in this order; returns its number."""
        ...

    def end(self, number: int) -> None:
        """End a pass, if it still runs; who waits in it meets FeedClosed."""
        ...

    def wait(self, number: int, shard: int, block: int) -> None:
        """Wait until a block of the pass may be read.

        Raises:
            FeedClosed: the pass is over.
            SourceError: the shard cannot be read.
        """
        ...

    def read_into(self, buffers: Sequence[memoryview], shard: int, start: int) -> None:
        """Fill the buffers, one after the other, with the shard's bytes from `start` on.

        All of them lie in one block that was waited for.
        """
        ...

    def image(self, shard: int, block: int) -> Image | None:
        """Where a block that was waited for can be read by system calls, instead of `read_into`.

        None where it cannot; until the block is consumed, what is there are the shard's bytes.
        """
        ...

    def consumed(self, number: int, shard: int, block: int) -> None:
        """Give a block back: the pass will not read it again. What was read of it so far is right.

        Raises:
            FeedClosed: the pass was over before, and what was read may be anything.
        """
        ...

    def views(self, shard: int) -> bool:
        """Whether `mapped` may have something for this shard."""
        ...

    def mapped(self, shard: int, start: int, stop: int) -> mmap.mmap | None:
        """Wait for blocks `start` to `stop` of a held shard, in no pass.

        Returns:
            A private writable mapping of the shard, whose life keeps the bytes in place; None when
            the shard cannot be viewed (any more): read it in a pass instead.
        """
        ...

    def standing(self, number: int, shard: int, start: int, stop: int) -> Image | None:
        """Wait for blocks `start` to `stop` of a shard, in a pass over everything.

        Any thread may ask, and as often as it likes; nothing is consumed. What was read of it is
        right if `settle` says so afterwards.

        Returns:
            Where those blocks can be read by system calls; None where blocks come in passes alone.

        Raises:
            FeedClosed: the pass is over.
            SourceError: the shard cannot be read.
        """
        ...

    def settle(self) -> None:
        """Wait until all that was read so far is known to be what the source holds.

        To be called before what was read is counted as loaded.

        Raises:
            SourceChanged: the source has other bytes now than those that lay in memory.
            StreamerError: that cannot be told.
        """
        ...

    def close(self) -> None:
        """Give everything back that no mapping holds. Idempotent."""
        ...

"""The interface through which readers of tensors get a checkpoint's bytes.

A feed shows the shards as files and hands out their blocks. A reader makes *passes*: it names the
blocks that it will use, in order, then waits for each, reads from it and gives it back. Only one
pass runs at a time; a new one ends the one before. A feed buffers nothing itself.
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
    """Bytes come through the daemon's shared memory."""
    DIRECT = "direct"
    """This process reads from storage, without a daemon."""
    MIXED = "daemon+direct"
    """Bytes came through the daemon at first, and this process reads the rest."""
    PAGE_CACHE = "page-cache"
    """This process reads the page cache; the daemon brings the files in afterwards."""


class Copies(NamedTuple):
    """The bytes that a pass copied, by their route."""

    daemon: int = 0
    page_cache: int = 0
    direct: int = 0

    @classmethod
    def of(cls, size_bytes: int, route: Route, direct_bytes: int) -> Copies:
        """The bytes that a pass copied.

        Args:
            size_bytes: how many bytes the pass copied in all.
            route: the route of the pass at its end.
            direct_bytes: how many of them this process read itself, if the route is mixed.
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
    """The reader's pass has ended: the checkpoint was closed, or another pass was begun."""

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
        """Whether the file keeps its length while the feed is open, so that it may be mapped."""
        ...

    def ended(self, told: str) -> StreamerError:
        """The error for the tensor `told`, which lies past the end of the file."""
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
        """How many bytes of the checkpoint this process has read itself so far."""
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
        """End a pass if it still runs; threads that wait in it get FeedClosed."""
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

        All these bytes lie in one block, which was waited for.
        """
        ...

    def image(self, shard: int, block: int) -> Image | None:
        """A file that holds a block that was waited for, for system calls instead of `read_into`.

        None if there is no such file. The file holds the shard's bytes until the block is consumed.
        """
        ...

    def consumed(self, number: int, shard: int, block: int) -> None:
        """Give a block back, which the pass will not read again; the bytes read from it are right.

        Raises:
            FeedClosed: the pass was over before, so the bytes read may be wrong.
        """
        ...

    def views(self, shard: int) -> bool:
        """Whether `mapped` may return a mapping for this shard."""
        ...

    def mapped(self, shard: int, start: int, stop: int) -> mmap.mmap | None:
        """Wait for blocks `start` to `stop` of a held shard, outside any pass.

        Returns:
            A private writable mapping of the shard, which keeps the bytes in place while it lives.
            None if the shard cannot be viewed, or not any more; then it must be read in a pass.
        """
        ...

    def standing(self, number: int, span: BlockRange, *, wait: bool = True) -> Image | None:
        """Wait for blocks of a shard, in a pass over everything.

        Any thread may call this, as often as it likes; nothing is consumed. The bytes read are
        right if `settle` raises nothing afterwards.

        Returns:
            A file that holds those blocks, for system calls; None if blocks come only in passes.
            If `wait` is false, also None if the blocks are not there yet.

        Raises:
            FeedClosed: the pass is over.
            SourceError: the shard cannot be read.
        """
        ...

    def settle(self) -> None:
        """Wait until all bytes read so far are known to equal the source's.

        The caller calls this before it counts those bytes as loaded.

        Raises:
            SourceChanged: the source has other bytes now than memory had.
            StreamerError: whether they are equal cannot be found out.
        """
        ...

    def close(self) -> None:
        """Give back everything that no mapping holds. Idempotent."""
        ...

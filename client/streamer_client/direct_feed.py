"""A feed without a daemon: blocks are read from storage by whoever needs them.

Nothing is buffered and nothing shared: a reader's threads read straight into the memory where the
bytes are wanted, so reading ahead is theirs to do, within `read_ahead_bytes`.
"""

from __future__ import annotations

import mmap
import threading
from collections.abc import Sequence
from typing import Final

from streamer_client.contract.errors import SourceChanged
from streamer_client.contract.layout import DEFAULT_BLOCK_BYTES, BlockRange
from streamer_client.feed import FeedClosed, FeedShard
from streamer_client.storage.contract import Reader, Storage, StoredShard

READ_AHEAD_BYTES: Final = 128 << 20
SCATTER_BYTES: Final = 256 << 10
"""Buffers smaller than this on average are read as one range and then copied apart."""


class DirectFeed:
    """The shards of one source, read in this process.

    Args:
        storage: the kind of source.
        stored: the shards as they were found; a shard that changed since raises SourceChanged.
        memory_limit: bytes of private memory to read ahead into; -1 a default, 0 none.
        threads: how many threads a reader should use.
        block_bytes: unit of reading.
    """

    mode = "direct"
    resident_bytes = 0

    def __init__(
        self,
        storage: Storage,
        stored: Sequence[StoredShard],
        *,
        memory_limit: int = -1,
        threads: int,
        block_bytes: int = DEFAULT_BLOCK_BYTES,
    ) -> None:
        self.shards = tuple(FeedShard(shard.uri, shard.size_bytes) for shard in stored)
        self.block_bytes = block_bytes
        self.threads = threads
        self.read_ahead_bytes = (
            READ_AHEAD_BYTES if memory_limit < 0 else min(memory_limit, READ_AHEAD_BYTES)
        )
        self._storage = storage
        self._stored = tuple(stored)
        self._readers: dict[int, Reader] = {}
        self._lock = threading.Lock()
        self._pass = 0
        self._closed = False

    def begin(self, order: Sequence[BlockRange]) -> int:
        del order  # blocks are read when they are asked for
        self._pass += 1
        return self._pass

    def end(self, number: int) -> None:
        if number == self._pass:
            self._pass += 1

    def wait(self, number: int, shard: int, block: int) -> None:
        del shard, block
        if number != self._pass or self._closed:
            raise FeedClosed

    def read_into(self, buffers: Sequence[memoryview], shard: int, start: int) -> None:
        reader = self._reader(shard)
        total = sum(len(buffer) for buffer in buffers)
        if len(buffers) > 1 and total < SCATTER_BYTES * len(buffers):
            scratch = memoryview(bytearray(total))
            reader.readinto(scratch, start)
            at = 0
            for buffer in buffers:
                buffer[:] = scratch[at : at + len(buffer)]
                at += len(buffer)
            return
        for buffer in buffers:
            if buffer:
                reader.readinto(buffer, start)
            start += len(buffer)

    def _reader(self, shard: int) -> Reader:
        with self._lock:
            if self._closed:
                raise FeedClosed
            reader = self._readers.get(shard)
            if reader is None:
                reader = self._readers[shard] = self._storage.open(self._stored[shard])
            return reader

    def image(self, shard: int, block: int) -> None:
        del shard, block  # how a file is best read is known to its reader

    def consumed(self, number: int, shard: int, block: int) -> None:
        del number, shard, block

    def views(self, shard: int) -> bool:
        del shard
        return False

    def mapped(self, shard: int, start: int, stop: int) -> mmap.mmap | None:
        del shard, start, stop
        return None

    def close(self) -> None:
        with self._lock:
            self._closed = True
            readers, self._readers = self._readers, {}
        for reader in readers.values():
            reader.close()


def same_shards(found: Sequence[StoredShard], expected: Sequence[tuple[str, str, int]]) -> None:
    """Check that storage still has what the daemon showed as `(uri, identity, size_bytes)`.

    Raises:
        SourceChanged: naming the first shard that is not the same.
    """
    now = {shard.uri: shard for shard in found}
    for uri, identity, size_bytes in expected:
        shard = now.get(uri)
        if shard is None or (shard.identity, shard.size_bytes) != (identity, size_bytes):
            raise SourceChanged(
                f"{uri} changed while it was being loaded; load it again from the start"
            )

"""A feed without a daemon: the thread that needs a block reads it from storage.

Nothing is buffered and nothing is shared. A reader's threads read straight into the memory where
the bytes are wanted. They may read ahead, up to `read_ahead_bytes`.
"""

from __future__ import annotations

import mmap
import os
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from streamer_client.connecting.source_access import SourceAccess
from streamer_client.contract.errors import (
    CorruptCheckpoint,
    CredentialsExpired,
    SourceChanged,
    SourceNotFound,
    StreamerError,
)
from streamer_client.contract.layout import DEFAULT_BLOCK_BYTES, BlockRange, block_span
from streamer_client.contract.options import LoadOptions
from streamer_client.contract.uris import is_remote
from streamer_client.copy.feed import FeedClosed, FeedShard, Route
from streamer_client.delivery.concurrency import read_threads
from streamer_client.storage.contract import Reader, Storage, StoredShard
from streamer_client.storage.local_files import DescriptorStorage, LocalFile

READ_AHEAD_BYTES: Final = 128 << 20
SCATTER_BYTES: Final = 256 << 10
"""Buffers smaller than this on average are read as one range, which is then copied to them."""


def read_ahead_bytes(memory_limit: int) -> int:
    """Private memory that a reader may fill ahead; -1 if the caller sets no limit."""
    return READ_AHEAD_BYTES if memory_limit < 0 else min(memory_limit, READ_AHEAD_BYTES)


class _Opened(NamedTuple):
    """A reader, and the storage whose credentials it uses."""

    reader: Reader
    storage: Storage


class FetchedBlocks:
    """Memory that holds some blocks of a shard at their own offsets. Serves as an `Image`."""

    def __init__(self, size_bytes: int) -> None:
        self.fd = os.memfd_create("streamer-blocks", os.MFD_CLOEXEC)
        weakref.finalize(self, os.close, self.fd).atexit = False
        os.ftruncate(self.fd, size_bytes)

    @property
    def stays(self) -> bool:
        """False: this memory is read once, and mapping it would cost more than that."""
        return False

    def ended(self, told: str) -> StreamerError:
        """The error for the tensor `told`, which lies past the end of the shard."""
        return CorruptCheckpoint(f"{told} lies past the end of its shard")


class DirectFeed:
    """The shards of one source, read in this process.

    Args:
        storage: the storage that reads the source.
        stored: the shards as they were found; a shard that changed since raises SourceChanged.
        memory_limit: bytes of private memory to read ahead into; -1 for a default, 0 for none.
        threads: how many threads a reader should use.
        block_bytes: size of a block.
        renewed: returns a storage with newer credentials, or None if there are none.
    """

    route = Route.DIRECT
    resident_bytes = 0

    def __init__(
        self,
        storage: Storage,
        stored: Sequence[StoredShard],
        *,
        memory_limit: int = -1,
        threads: int,
        block_bytes: int = DEFAULT_BLOCK_BYTES,
        renewed: Callable[[], Storage | None] = lambda: None,
    ) -> None:
        self.shards = tuple(FeedShard(shard.uri, shard.size_bytes) for shard in stored)
        self.block_bytes = block_bytes
        self.threads = threads
        self.read_ahead_bytes = read_ahead_bytes(memory_limit)
        self._storage = storage
        self._stored = tuple(stored)
        self._renewed = renewed
        self._opened: dict[int, _Opened] = {}
        self._retired: list[Reader] = []
        """Readers with expired credentials, which other threads may still be using."""
        self._own = threading.local()
        self._lock = threading.Lock()
        self._pass = 0
        self._closed = False
        self.direct_bytes = 0

    def begin(self, order: Sequence[BlockRange]) -> int:
        del order  # blocks are read only when somebody waits for them
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
        total = sum(len(buffer) for buffer in buffers)
        small = total < SCATTER_BYTES * len(buffers)
        if len(buffers) > 1 and (small or self._one_request(shard)):
            scratch = self._scratch(total)
            self._read(shard, scratch, start)
            at = 0
            for buffer in buffers:
                buffer[:] = scratch[at : at + len(buffer)]
                at += len(buffer)
            return
        for buffer in buffers:
            if buffer:
                self._read(shard, buffer, start)
            start += len(buffer)

    def _scratch(self, size_bytes: int) -> memoryview:
        """This thread's own memory, kept because new memory costs as much time as the copy."""
        memory: bytearray | None = getattr(self._own, "memory", None)
        if memory is None or len(memory) < size_bytes:
            memory = self._own.memory = bytearray(size_bytes)
        return memoryview(memory)[:size_bytes]

    def _one_request(self, shard: int) -> bool:
        """Whether one request for a range is cheaper than several, even with a copy afterwards."""
        return self._of(shard).reader.piece_bytes == 0

    def _read(self, shard: int, buffer: memoryview, start: int) -> None:
        opened = self._of(shard, len(buffer))
        try:
            opened.reader.readinto(buffer, start)
        except CredentialsExpired:
            if not self._renew(shard, opened):
                raise
            self._of(shard).reader.readinto(buffer, start)

    def _of(self, shard: int, counted_bytes: int = 0) -> _Opened:
        """The reader of a shard; `counted_bytes` are added to `direct_bytes`."""
        with self._lock:
            if self._closed:
                raise FeedClosed
            self.direct_bytes += counted_bytes
            opened = self._opened.get(shard)
            if opened is None:
                reader = self._storage.open(self._stored[shard])
                opened = self._opened[shard] = _Opened(reader, self._storage)
            return opened

    def _renew(self, shard: int, expired: _Opened) -> bool:
        """Open the shard again with new credentials; False if none are newer than `expired`."""
        with self._lock:
            if expired.storage is self._storage:
                storage = self._renewed()
                if storage is None:
                    return False
                self._storage = storage
            if self._opened.get(shard) is expired:
                self._retired.append(self._opened.pop(shard).reader)
            return True

    def image(self, shard: int, block: int) -> None:
        del shard, block  # the reader knows best how to read its file

    def consumed(self, number: int, shard: int, block: int) -> None:
        del number, shard, block

    def views(self, shard: int) -> bool:
        del shard
        return False

    def mapped(self, shard: int, start: int, stop: int) -> mmap.mmap | None:
        del shard, start, stop
        return None

    def standing(self, number: int, span: BlockRange, *, wait: bool = True) -> FetchedBlocks | None:
        """The blocks, read for this caller only; None if `wait` is false, as reading takes time."""
        del number  # may belong to a feed that reads on through this one
        if not wait:
            return None
        size_bytes = self.shards[span.shard].size_bytes
        image = FetchedBlocks(size_bytes)
        for block in range(span.start, span.stop):
            first, past = block_span(block, size_bytes, self.block_bytes)
            with (
                mmap.mmap(image.fd, past - first, offset=first) as memory,
                memoryview(memory) as buffer,
            ):
                self._read(span.shard, buffer, first)
        return image

    def settle(self) -> None:
        """Do nothing: the reader checks at each read that the source is unchanged."""

    def close(self) -> None:
        with self._lock:
            self._closed = True
            readers = [*self._retired, *(opened.reader for opened in self._opened.values())]
            self._opened.clear()
            self._retired.clear()
        for reader in readers:
            reader.close()
        if is_remote(self._stored[0].uri):
            from streamer_client.storage.http.pool import close_idle  # noqa: PLC0415  not for files

            close_idle()


def open_directly(
    access: SourceAccess,
    source: str,
    pattern: str | None,
    files: Sequence[str] | None,
    *,
    options: LoadOptions,
    block_bytes: int = DEFAULT_BLOCK_BYTES,
    expected: Sequence[tuple[str, str, int]] = (),
) -> DirectFeed:
    """Find a source's shards, and read them in this process.

    Args:
        access: the access to the source.
        source: the source; like `pattern` and `files`, it is passed to `Storage.list_shards`.
        pattern: a glob on file names.
        files: the shards themselves.
        options: options of the load: how much it may read ahead, and with how many threads.
        block_bytes: size of a block.
        expected: `(uri, identity, size_bytes)` of shards that must not have changed.

    Raises:
        SourceError: the source cannot be read, or has no shards.
        SourceChanged: a shard is not as expected.
    """
    storage = access.storage()
    stored = storage.list_shards(source, pattern, files)
    if not stored:
        raise SourceNotFound(f"{source} has no shards")
    same_shards(stored, expected)
    return DirectFeed(
        storage,
        stored,
        memory_limit=options.memory_limit,
        threads=read_threads(options.concurrency, remote=is_remote(stored[0].uri)),
        block_bytes=block_bytes,
        renewed=access.renewed_storage,
    )


def read_files(
    files: Sequence[LocalFile],
    *,
    options: LoadOptions,
    block_bytes: int = DEFAULT_BLOCK_BYTES,
) -> DirectFeed:
    """Read opened files in this process, whatever files their names mean by now.

    Args:
        files: the opened files; their owner closes them.
        options: as in `open_directly`.
        block_bytes: size of a block.
    """
    return DirectFeed(
        DescriptorStorage(files),
        [file.shard for file in files],
        memory_limit=options.memory_limit,
        threads=read_threads(options.concurrency, remote=False),
        block_bytes=block_bytes,
    )


def same_shards(found: Sequence[StoredShard], expected: Sequence[tuple[str, str, int]]) -> None:
    """Check that storage still has the expected shards, each `(uri, identity, size_bytes)`.

    Raises:
        SourceChanged: a shard differs; the text names the first such.
    """
    now = {shard.uri: shard for shard in found}
    for uri, identity, size_bytes in expected:
        shard = now.get(uri)
        if shard is None or (shard.identity, shard.size_bytes) != (identity, size_bytes):
            raise SourceChanged(
                f"{uri} changed while it was being loaded; load it again from the start"
            )

"""A feed over the daemon's slabs that outlives the daemon.

Owns passes over an opened load and what to do when the daemon dies: what was granted stays readable
through our descriptors; the rest comes from a new daemon, or else straight from storage. Copying
threads call it; the first of them that meets the loss repairs it for all. Also decides whether a
pass is better read from the page cache, and asks the daemon to bring that in afterwards.
"""

from __future__ import annotations

import logging
import mmap
import threading
from collections.abc import Callable, Sequence
from typing import Final

from streamer_client.connect.link import Link
from streamer_client.connect.source_access import SourceAccess
from streamer_client.contract.errors import (
    DaemonUnavailable,
    MemoryLimitError,
    SourceChanged,
    StreamerError,
)
from streamer_client.contract.layout import BlockRange, block_count
from streamer_client.contract.messages import Open, OpenedShard
from streamer_client.copy.block_ranges import blocks, count, in_order, whole
from streamer_client.copy.feed import FeedClosed, FeedShard, Image
from streamer_client.delivery.direct_feed import (
    READ_AHEAD_BYTES,
    DirectFeed,
    open_directly,
    read_files,
)
from streamer_client.delivery.load import DaemonLoad
from streamer_client.delivery.load_opening import LoadOpening
from streamer_client.delivery.page_cached import in_page_cache
from streamer_client.delivery.parallelism import copy_threads
from streamer_client.storage.local_files import LocalFile

log = logging.getLogger(__name__)

RESIDENT_SHARE: Final = 8
"""Where more than an eighth is in shared memory, the load goes through the daemon."""


class DaemonFeed:
    """The shards of one `Open`.

    Args:
        link: way to the daemon.
        request: what to open, without numbers and environment.
        access: the way into the source.
        files: its files, opened, where it is local; the feed closes them.
        page_cache: whether a pass over all of it may read the page cache instead.
        without_memory: whether to read on without the daemon when that has no memory for slabs.
    """

    def __init__(
        self,
        link: Link,
        request: Open,
        access: SourceAccess,
        files: Sequence[LocalFile] = (),
        *,
        page_cache: bool = False,
        without_memory: bool = False,
    ) -> None:
        self._link = link
        self._request = request
        self._files = files
        self._page_cache = page_cache and request.memory_limit < 0
        self._without_memory = without_memory
        self._owed = False
        """The daemon is to bring in what was read from the page cache."""
        self._opening = LoadOpening(link, request, access, files)
        self._lost: list[DaemonLoad] = []
        self._direct: DirectFeed | None = None
        self._repair = threading.RLock()  # finalizers may close a feed anywhere
        self._guard = threading.RLock()
        self._pass = 0
        self._running = False
        self._closed = False
        first = self._opening.first(self._cancelled(), may_bring_in=self._page_cache)
        wants_all = request.want == "all"
        if wants_all:
            first.expect_all()
        self._load: DaemonLoad | None = first
        self._opened_shards: tuple[OpenedShard, ...] = first.shards
        uris = [file.uri for file in files] or [shard.uri for shard in first.shards]
        self.shards = tuple(
            FeedShard(uri, shard.size_bytes) for uri, shard in zip(uris, first.shards, strict=True)
        )
        self.block_bytes = first.block_bytes
        self.resident_bytes = first.resident_bytes
        limit = request.memory_limit
        self.read_ahead_bytes = READ_AHEAD_BYTES if limit < 0 else min(limit, READ_AHEAD_BYTES)
        sizes = [shard.size_bytes for shard in self.shards]
        self._order = whole(sizes, self.block_bytes) if wants_all else ()
        self._fresh = wants_all
        self._done = self._nothing_done()

    def _cancelled(self) -> Callable[[], bool]:
        number = self._pass
        return lambda: self._closed or number != self._pass

    @property
    def mode(self) -> str:
        if self._direct is None:
            return "daemon"
        return "daemon+direct" if self._lost else "page-cache"

    @property
    def threads(self) -> int:
        return copy_threads() if self._direct is None else self._direct.threads

    # --- passes ----------------------------------------------------------------------------------

    def begin(self, order: Sequence[BlockRange]) -> int:
        with self._repair:
            number = self._next_pass(running=True)
            order = tuple(order)
            keep = self._fresh and order == self._order
            self._order, self._done, self._fresh = order, self._nothing_done(), False
            try:
                if self._load is not None and self._is_cached(order):
                    self._read_cached(self._load)
                if self._load is not None and not keep:
                    self._want(self._load, order)
            except DaemonUnavailable:
                self._recover(self._load)
            return number

    def _next_pass(self, *, running: bool) -> int:
        with self._guard:
            if self._closed:
                raise FeedClosed
            self._pass += 1
            self._running = running
            number = self._pass
        self._interrupt()
        return number

    def _want(self, load: DaemonLoad, order: tuple[BlockRange, ...]) -> None:
        """Have the daemon bring in a pass.

        A load that still has blocks of an earlier pass, or some on their way, is opened anew:
        they could fill the window with what this pass needs last, and it would never move on.
        """
        if load.held:
            load.want_all(order)
        elif load.idle():
            load.want(order)
        else:
            load.close()  # first: there may not be room for the windows of both
            load.forget()
            self._load = self._reopened()
            self._load.want(order)
            self._unless_closed()

    def end(self, number: int) -> None:
        with self._guard:
            if number == self._pass and not self._closed:
                self._next_pass(running=False)
                if self._load is not None:
                    self._load.give_back()
                if self.mode == "page-cache":
                    self._owed = all(all(flags) for flags in self._done)

    def _is_cached(self, order: tuple[BlockRange, ...]) -> bool:
        """Whether the page cache has what the daemon has not.

        Asked for a pass over everything, as everything is what the daemon then brings in; only for
        the first, as after that the daemon has it.
        """
        if not self._page_cache or count(order) != sum(len(flags) for flags in self._done):
            return False
        self._page_cache = False
        size_bytes = sum(shard.size_bytes for shard in self.shards)
        found = (
            bool(self._files)
            and self.resident_bytes <= size_bytes // RESIDENT_SHARE
            and in_page_cache(self._files)
        )
        if not found:
            self._opening.let_go()
        return found

    def _read_cached(self, load: DaemonLoad) -> None:
        """Go on without the load, which would have the daemon copy the same bytes meanwhile."""
        try:
            direct = self._read_directly()
        except StreamerError as error:  # the daemon may read what we may not
            log.debug("event=page_cache_unread source=%r reason=%r", self._request.source, error)
            return
        load.close()
        with self._guard:
            self._direct, self._load = direct, None
        self._unless_closed()

    def wait(self, number: int, shard: int, block: int) -> None:
        while True:
            if number != self._pass or self._closed:
                raise FeedClosed
            if self._source(shard, block) is not None or self._direct is not None:
                return
            load = self._load
            if load is None:  # gone direct between the two looks
                continue
            try:
                granted = load.wait(shard, block, block + 1, lambda: number != self._pass)
            except MemoryLimitError as error:
                self._leave(load, error)
                continue
            if not granted and load.lost is not None:
                self._recover(load)

    def read_into(self, buffers: Sequence[memoryview], shard: int, start: int) -> None:
        source = self._source(shard, start // self.block_bytes) or self._direct
        if source is None:  # consumed by an ended pass
            raise FeedClosed
        source.read_into(buffers, shard, start)

    def image(self, shard: int, block: int) -> Image | None:
        source = self._source(shard, block)
        return None if source is None else source.image(shard)

    def consumed(self, number: int, shard: int, block: int) -> None:
        if number != self._pass:
            raise FeedClosed
        self._done[shard][block] = 1
        load = self._source(shard, block)
        if load is not None:
            load.consumed(shard, block, block + 1)

    def _source(self, shard: int, block: int) -> DaemonLoad | None:
        for load in (self._load, *self._lost):
            if load is not None and load.has(shard, block, block + 1):
                return load
        return None

    # --- views -----------------------------------------------------------------------------------

    def views(self, shard: int) -> bool:
        return any(
            load is not None and load.shards[shard].held for load in (self._load, *self._lost)
        )

    def mapped(self, shard: int, start: int, stop: int) -> mmap.mmap | None:
        load = self._held(shard, start, stop)
        return None if load is None else load.mapping(shard)

    def standing(self, shard: int, start: int, stop: int) -> Image | None:
        load = self._held(shard, start, stop)
        return None if load is None else load.image(shard)

    def _held(self, shard: int, start: int, stop: int) -> DaemonLoad | None:
        """Wait for a load that holds these blocks."""
        while not self._closed:
            for load in (self._load, *self._lost):
                if load is not None and load.shards[shard].held and load.has(shard, start, stop):
                    return load
            load = self._load
            if load is None or not load.shards[shard].held:
                return None
            try:
                granted = load.wait(shard, start, stop, lambda: self._closed)
            except MemoryLimitError as error:
                self._leave(load, error)
                return None
            if not granted and load.lost is not None:
                self._recover(load)
        raise FeedClosed

    def settle(self) -> None:
        for load in (self._load, *self._lost):
            if load is not None:
                load.settle(lambda: self._closed)
                if load.unproven:
                    load.compare_with(self._files)

    # --- the daemon died -------------------------------------------------------------------------

    def _recover(self, dead: DaemonLoad | None) -> None:
        """Find the rest of the running pass elsewhere; the first caller does it for all."""
        with self._repair:
            if self._load is not dead or dead is None or self._closed:
                return
            self._resume(dead)
            self._interrupt()

    def _resume(self, dead: DaemonLoad) -> None:
        """Replace the dead load; others read from it and wait in it until that is done."""
        remaining = self._remaining()
        load: DaemonLoad | None = None
        try:
            load = self._reopened(hold=self._request.hold)
        except SourceChanged:
            raise
        except StreamerError as error:
            self._direct = self._opened_directly(error)
        else:
            load.take_over(dead)
            if load.held:
                load.want_all(remaining)
            elif self._running:
                load.want(remaining)
            log.warning("event=load_resumed socket=%s", self._link.socket_path)
        with self._guard:
            self._lost = [*self._lost, dead]
            self._load = load
            self._fresh = False
        self._unless_closed()

    def _leave(self, load: DaemonLoad, error: MemoryLimitError) -> None:
        """Read the rest without the daemon, which has no memory for it; what it granted counts."""
        if not self._without_memory:
            raise error
        with self._repair:
            if self._load is not load or self._closed:
                return
            direct = self._opened_directly(error)
            load.want(())
            with self._guard:
                self._direct, self._load = direct, None
                self._lost = [*self._lost, load]
                self._fresh = False
            self._unless_closed()
            self._interrupt()

    def _remaining(self) -> tuple[BlockRange, ...]:
        return in_order(
            (shard, block)
            for shard, block in blocks(self._order)
            if not self._done[shard][block] and self._source(shard, block) is None
        )

    def _reopened(self, *, hold: bool = False) -> DaemonLoad:
        """The same shards in a new load that wants nothing yet.

        Raises:
            SourceChanged: a shard is not what it was.
            StreamerError: no daemon, or it refuses.
        """
        uris = tuple(shard.uri for shard in self.shards)
        load = self._opening.again(uris, self._cancelled(), hold=hold)
        for was, now in zip(self._opened_shards, load.shards, strict=True):
            if (was.identity, was.size_bytes) != (now.identity, now.size_bytes):
                load.close()
                raise SourceChanged(
                    f"{was.uri} changed while it was being loaded; load it again from the start"
                )
        return load

    def _opened_directly(self, why: StreamerError) -> DirectFeed:
        log.warning("event=reading_directly source=%r reason=%r", self._request.source, str(why))
        return self._read_directly()

    def _read_directly(self) -> DirectFeed:
        if self._files:
            return read_files(
                self._files,
                memory_limit=self._request.memory_limit,
                concurrency=self._request.concurrency,
                block_bytes=self.block_bytes,
            )
        return open_directly(
            self._opening.access,
            self._request.source,
            None,
            [shard.uri for shard in self.shards],
            memory_limit=self._request.memory_limit,
            concurrency=self._request.concurrency,
            block_bytes=self.block_bytes,
            expected=[(one.uri, one.identity, one.size_bytes) for one in self._opened_shards],
        )

    # --- end -------------------------------------------------------------------------------------

    def _nothing_done(self) -> list[bytearray]:
        return [bytearray(block_count(shard.size_bytes, self.block_bytes)) for shard in self.shards]

    def _interrupt(self) -> None:
        for load in (self._load, *self._lost):
            if load is not None:
                load.interrupt()

    def close(self) -> None:
        with self._guard:
            self._closed = True
            self._close_sources()
            owed, self._owed = self._owed, False
        if owed:
            self._opening.bring_in()
        self._opening.close()
        for file in self._files:
            file.close()

    def _unless_closed(self) -> None:
        """Close what was opened while somebody closed the feed."""
        with self._guard:
            if self._closed:
                self._close_sources()
                raise FeedClosed

    def _close_sources(self) -> None:
        for load in (self._load, *self._lost):
            if load is not None:
                load.close()
        if self._direct is not None:
            self._direct.close()

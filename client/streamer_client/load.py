"""One load that the daemon opened: what it granted, and the slabs to read that from.

Owns the account of wanted and granted blocks of one load on one connection; it dies with the
connection. What to do then is left to `daemon_feed.py`. The wire's thread writes the account,
copying threads wait on it.
"""

from __future__ import annotations

import contextlib
import logging
import mmap
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from streamer_client.block_ranges import blocks, in_order
from streamer_client.connection import Connection
from streamer_client.contract.errors import ProtocolMismatch, StreamerError
from streamer_client.contract.layout import BlockRange, block_count
from streamer_client.contract.messages import (
    Consumed,
    Open,
    Opened,
    OpenedShard,
    Renew,
    Waiting,
    Want,
)
from streamer_client.lease import Lease
from streamer_client.slab import Slab
from streamer_client.wire import DaemonSilent

log = logging.getLogger(__name__)

GIVE_BACK_SHARE: Final = 16
MOST_GIVEN_BACK_BLOCKS: Final = 32
"""A message for each block costs copying threads more than it is worth where this load lacks none;
so a sixteenth of the load, or so many blocks, are kept from others who may wait for memory.
4,096 resident blocks took 0.21 - 0.24 s with 32, 0.28 - 0.31 s with 8 (two cores).
"""
FIRST_REPORT_S: Final = 10.0
"""The second line about waiting comes after so many seconds, each later one after twice as many."""


class DaemonLoad:
    """An opened load. Raises the open's refusal as its typed error.

    Args:
        connection: a greeted connection.
        build: makes the `Open` from request id and load number.
        cancelled: asked now and then while the load waits to be admitted.
        credentials_wanted: called in the wire's thread when the daemon wants renewed ones; must not
            wait. They go to `renew`.
    """

    shards: tuple[OpenedShard, ...] = ()
    block_bytes: int
    resident_bytes: int

    def __init__(
        self,
        connection: Connection,
        build: Callable[[int, int], Open],
        cancelled: Callable[[], bool] = lambda: False,
        credentials_wanted: Callable[[], None] = lambda: None,
    ) -> None:
        self.on_credentials_wanted = credentials_wanted
        self.connection = connection
        self.lost: StreamerError | None = None
        self._changed = threading.Condition()
        self._wanted: list[bytearray] = []
        self._granted: list[bytearray] = []
        self._lacking = False
        """Whether a wanted block is not granted yet."""
        self._given_back: deque[BlockRange] = deque()
        """Consumed, and not told of yet. Copying threads change it without the lock, which they
        would otherwise queue for at each block."""
        self._give_back_blocks = 1
        self._failed: dict[int, StreamerError] = {}
        self._mappings: dict[int, mmap.mmap] = {}
        self._slabs: list[Slab | None] = []
        self._waiting_since = self._report_at = 0.0
        self._closed = False
        self.number = connection.listen(self)
        self._lease = Lease(connection, self.number)
        try:
            self._open(build, cancelled)
        except StreamerError:  # refused: the daemon knows no such load
            connection.unlisten(self.number)
            raise
        except BaseException:  # interrupted: it may still open it
            self.close()
            raise
        self._open_slabs()

    def _open(self, build: Callable[[int, int], Open], cancelled: Callable[[], bool]) -> None:
        answer = self.connection.request(
            lambda request_id: build(request_id, self.number), None, cancelled
        )
        if not isinstance(answer, Opened):
            raise ProtocolMismatch(f"the daemon answered Open with {type(answer).__name__}")

    def _open_slabs(self) -> None:
        try:
            self._slabs = [
                Slab(shard.slab, shard.size_bytes) if shard.size_bytes else None
                for shard in self.shards
            ]
        except BaseException:
            self.close()
            raise

    # --- the wire's thread -----------------------------------------------------------------------

    def on_opened(self, message: Opened) -> None:
        counts = [block_count(shard.size_bytes, message.block_bytes) for shard in message.shards]
        with self._changed:
            self.shards = message.shards
            self.block_bytes = message.block_bytes
            self.resident_bytes = message.resident_bytes
            self._wanted = [bytearray(count) for count in counts]
            self._granted = [bytearray(count) for count in counts]
            share = sum(counts) // GIVE_BACK_SHARE
            self._give_back_blocks = max(1, min(share, MOST_GIVEN_BACK_BLOCKS))
        self.on_granted(message.granted)

    def on_granted(self, ranges: tuple[BlockRange, ...]) -> None:
        with self._changed:
            for shard, start, stop in ranges:
                self._granted[shard][start:stop] = b"\1" * (stop - start)
                self._wanted[shard][start:stop] = bytes(stop - start)
            self._lacking = any(1 in wanted for wanted in self._wanted)
            self._changed.notify_all()

    def on_shard_failed(self, shard: int, error: StreamerError) -> None:
        with self._changed:
            self._failed[shard] = error
            self._changed.notify_all()

    def on_waiting(self, message: Waiting) -> None:
        """Say so at once, then ever more rarely."""
        now = time.monotonic()
        self._waiting_since = self._waiting_since or now
        if now >= self._report_at:
            log.warning(
                "event=waiting_for_memory needs_bytes=%d available_bytes=%d limit_bytes=%d "
                "waited_s=%.0f",
                message.needs_bytes,
                message.available_bytes,
                message.limit_bytes,
                now - self._waiting_since,
            )
            self._report_at = now + max(FIRST_REPORT_S, now - self._waiting_since)

    def on_lost(self, error: StreamerError) -> None:
        with self._changed:
            self.lost = error
            if isinstance(error, DaemonSilent):  # it may wake up and release what is not held
                self.forget()
            self._changed.notify_all()

    # --- copying threads -------------------------------------------------------------------------

    def expect_all(self) -> None:
        """Note that `Open` itself wanted all blocks."""
        with self._changed:
            for wanted, granted in zip(self._wanted, self._granted, strict=True):
                wanted[:] = bytes(1 - flag for flag in granted)
            self._lacking = any(1 in wanted for wanted in self._wanted)

    def want(self, order: Sequence[BlockRange]) -> None:
        """Replace what is wanted and not yet granted; blocks granted already are left out."""
        self.give_back()
        with self._changed:
            for wanted in self._wanted:
                wanted[:] = bytes(len(wanted))
            for shard, start, stop in order:
                flags = self._granted[shard][start:stop]
                self._wanted[shard][start:stop] = bytes(1 - flag for flag in flags)
            self._lacking = any(1 in wanted for wanted in self._wanted)
        self.connection.send(Want(self.number, tuple(order)))

    def renew(self, environment: dict[str, str]) -> None:
        """Give the daemon what to read with from now on."""
        self.connection.send(Renew(self.number, environment))

    def want_all(self, first: Sequence[BlockRange]) -> None:
        """Want these blocks first, then all others that are not granted, in file order."""
        named = set(blocks(first))
        rest = (
            (shard, block)
            for shard, flags in enumerate(self._granted)
            for block, flag in enumerate(flags)
            if not flag and (shard, block) not in named
        )
        self.want((*first, *in_order(rest)))

    @property
    def held(self) -> bool:
        """Whether every shard stays resident as a whole."""
        return all(shard.held for shard in self.shards)

    def idle(self) -> bool:
        """Nothing of the shards that are not held is wanted or granted."""
        return not any(
            any(self._wanted[number]) or any(self._granted[number])
            for number, shard in enumerate(self.shards)
            if not shard.held
        )

    def has(self, shard: int, start: int, stop: int) -> bool:
        return self._granted[shard].count(1, start, stop) == stop - start

    def wait(self, shard: int, start: int, stop: int, interrupted: Callable[[], bool]) -> bool:
        """Wait until the blocks are granted.

        Returns:
            Whether they are; False when interrupted, closed, or the connection is lost.

        Raises:
            StreamerError: what the daemon said of this shard.
        """
        if self.has(shard, start, stop):
            return True
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    self.has(shard, start, stop)
                    or shard in self._failed
                    or self.lost is not None
                    or self._closed
                    or interrupted()
                )
            )
            if self.has(shard, start, stop):
                return True
            if shard in self._failed:
                error = self._failed[shard]
                raise type(error)(*error.args) from error
            return False

    def interrupt(self) -> None:
        """Let everyone who waits ask again whether it was interrupted."""
        with self._changed:
            self._changed.notify_all()

    def consumed(self, shard: int, start: int, stop: int) -> None:
        """Give granted blocks back, unless the shard is held anyway.

        At once while blocks are lacking, as these may need the room; else a few at a time.
        """
        if self.shards[shard].held:
            return
        self._granted[shard][start:stop] = bytes(stop - start)
        self._given_back.append(BlockRange(shard, start, stop))
        if self._lacking or len(self._given_back) >= self._give_back_blocks:
            self.give_back()

    def give_back(self) -> None:
        """Tell of the blocks that were consumed and not told of yet."""
        ranges = []
        with contextlib.suppress(IndexError):  # emptied, by this thread or by another
            while True:
                ranges.append(self._given_back.popleft())
        if ranges:
            self.connection.send(Consumed(self.number, tuple(ranges)))

    def read_into(self, buffers: Sequence[memoryview], shard: int, start: int) -> None:
        slab = self._slabs[shard]
        if slab is not None:
            slab.read_into(buffers, start)

    def image(self, shard: int) -> Slab | None:
        return self._slabs[shard]

    def mapping(self, shard: int) -> mmap.mmap:
        """The private mapping of a held shard; while anything refers to it the lease goes on."""
        with self._changed:
            mapping = self._mappings.get(shard)
            slab = self._slabs[shard]
            if mapping is None and slab is not None:
                mapping = self._mappings[shard] = slab.map()
                self._lease.attach(shard, mapping)
            if mapping is None:
                raise ValueError(f"shard {shard} is empty and has nothing to map")
            return mapping

    def forget(self) -> None:
        """Count nothing as granted that the daemon may release."""
        with self._changed:
            for shard, granted in zip(self.shards, self._granted, strict=True):
                if not shard.held:
                    granted[:] = bytes(len(granted))

    def take_over(self, dead: DaemonLoad) -> None:
        """Lease what the views of a dead load refer to, where this daemon has adopted its slabs.

        Views that are handed out from now on are made of the same mappings.
        """
        with self._changed:
            for shard, mapping in dead.mappings().items():
                ours, theirs = self._slabs[shard], dead._slabs[shard]
                if ours is None or theirs is None or not ours.is_same(theirs):
                    continue
                if self.shards[shard].held:
                    self._mappings[shard] = mapping
                    self._lease.attach(shard, mapping)

    def mappings(self) -> dict[int, mmap.mmap]:
        """The mappings made so far, by shard."""
        with self._changed:
            return dict(self._mappings)

    def close(self) -> None:
        """End the load, except for the shards that views still refer to. Idempotent."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._mappings.clear()
            self._changed.notify_all()
        self.give_back()
        if not self.held:
            self.connection.send(Want(self.number, ()))
        self._lease.close(range(len(self._granted)))

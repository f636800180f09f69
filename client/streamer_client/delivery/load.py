"""One load that the daemon opened: what it granted, and the slabs to read that from.

Owns the account of wanted and granted blocks of one load on one connection; it dies with the
connection. What to do then is left to `daemon_feed.py`. The wire's thread writes the account,
copying threads wait on it.
"""

from __future__ import annotations

import contextlib
import logging
import mmap
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from streamer_client.connect.connection import Connection
from streamer_client.connect.wire import DaemonSilent
from streamer_client.contract.checks import check_shards
from streamer_client.contract.errors import (
    DaemonUnavailable,
    ProtocolMismatch,
    SourceChanged,
    StreamerError,
)
from streamer_client.contract.layout import (
    PAGE_BYTES,
    BlockRange,
    block_count,
    sample_starts,
)
from streamer_client.contract.messages import (
    Consumed,
    Open,
    Opened,
    OpenedShard,
    Renew,
    Waiting,
    Want,
)
from streamer_client.copy.plan import blocks, in_order
from streamer_client.delivery.lease import Lease
from streamer_client.delivery.slab import Slab
from streamer_client.storage.local_files import LocalFile

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
        self._lacking_slabs: set[int] = set()
        """Shards whose slabs the daemon has not handed out yet."""
        self._early: list[tuple[int, int]] = []
        """Shards and slabs that overtook the answer they belong to: they come over another
        socket."""
        self._comparing = False
        """Whether what was granted is still being compared with the source."""
        self._waiting_since = self._report_at = 0.0
        self._closed = False
        self.number = connection.listen(self)
        self._lease = Lease(connection, self.number)
        try:
            self._open(build, cancelled)
        except StreamerError:  # refused: the daemon knows no such load
            connection.unlisten(self.number)
            self._forget_early()
            raise
        except BaseException:  # interrupted: it may still open it
            self.close()
            self._forget_early()
            raise
        self._await_slabs()

    def _open(self, build: Callable[[int, int], Open], cancelled: Callable[[], bool]) -> None:
        answer = self.connection.request(
            lambda request_id: build(request_id, self.number), None, cancelled
        )
        if not isinstance(answer, Opened):
            raise ProtocolMismatch(f"the daemon answered Open with {type(answer).__name__}")

    def _await_slabs(self) -> None:
        """Wait for the descriptors of all slabs, which follow the answer at once.

        A shard whose slab cannot be made fails instead, which is told to whoever waits for it.
        """

        def lacking() -> bool:
            return bool(self._lacking_slabs - self._failed.keys())

        try:
            with self._changed:
                self._changed.wait_for(
                    lambda: not lacking() or self.lost is not None or self._closed
                )
                if lacking() and self.lost is not None:
                    raise DaemonUnavailable(f"{self.lost}") from self.lost
        except BaseException:
            self.close()
            raise

    # --- the wire's thread -----------------------------------------------------------------------

    def on_opened(self, message: Opened) -> None:
        sizes = ((shard.uri, shard.size_bytes) for shard in message.shards)
        check_shards(sizes, message.block_bytes)
        counts = [block_count(shard.size_bytes, message.block_bytes) for shard in message.shards]
        with self._changed:
            self.shards = message.shards
            self.block_bytes = message.block_bytes
            self.resident_bytes = message.resident_bytes
            self._wanted = [bytearray(count) for count in counts]
            self._granted = [bytearray(count) for count in counts]
            share = sum(counts) // GIVE_BACK_SHARE
            self._give_back_blocks = max(1, min(share, MOST_GIVEN_BACK_BLOCKS))
            self._slabs = [None] * len(message.shards)
            filled = (number for number, one in enumerate(message.shards) if one.size_bytes)
            self._lacking_slabs = set(filled)
            self._comparing = not message.compared
            early, self._early = self._early, []
        self.on_granted(message.granted)
        self._take_slabs(early)

    def on_slabs(self, shards: tuple[int, ...], descriptors: list[int]) -> None:
        """Take the descriptors over, whatever they are for."""
        pairs = zip(shards, descriptors, strict=True)
        with self._changed:
            if not self.shards and not self._closed:
                self._early.extend(pairs)
                return
        self._take_slabs(pairs)

    def _take_slabs(self, pairs: Iterable[tuple[int, int]]) -> None:
        left = deque(pairs)
        with self._changed:
            try:
                while left:
                    self._take_slab(*left.popleft())
            finally:
                for _, descriptor in left:
                    os.close(descriptor)
                self._changed.notify_all()

    def _take_slab(self, number: int, descriptor: int) -> None:
        if number not in self._lacking_slabs:
            os.close(descriptor)
            return
        self._slabs[number] = Slab(descriptor, self.shards[number].size_bytes)
        self._lacking_slabs.discard(number)

    def _forget_early(self) -> None:
        """Nobody answers the open any more: nothing that came, or comes yet, is wanted."""
        with self._changed:
            self._closed = True
            early, self._early = self._early, []
        for _, descriptor in early:
            os.close(descriptor)

    def on_comparing(self) -> None:
        with self._changed:
            self._comparing = True

    def on_compared(self) -> None:
        with self._changed:
            self._comparing = False
            self._changed.notify_all()

    def on_granted(self, ranges: tuple[BlockRange, ...]) -> None:
        with self._changed:
            self._check(ranges)
            for shard, start, stop in ranges:
                if shard in self._failed and shard in self._lacking_slabs:
                    continue  # resident in a slab that was not handed out
                self._granted[shard][start:stop] = b"\1" * (stop - start)
                self._wanted[shard][start:stop] = bytes(stop - start)
            self._lacking = any(1 in wanted for wanted in self._wanted)
            self._changed.notify_all()

    def _check(self, ranges: tuple[BlockRange, ...]) -> None:
        for shard, _, stop in ranges:
            if shard >= len(self._granted) or stop > len(self._granted[shard]):
                raise ProtocolMismatch(
                    f"the daemon granted blocks up to {stop} of shard {shard}, which load "
                    f"{self.number} does not have; install the same version on both sides"
                )

    def on_shard_failed(self, shard: int, error: StreamerError) -> None:
        with self._changed:
            self._failed[shard] = error
            if shard in self._lacking_slabs:  # nothing of it can be read, granted or not
                self._granted[shard][:] = bytes(len(self._granted[shard]))
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

    def settle(self, interrupted: Callable[[], bool]) -> None:
        """Wait until what was granted is known to be what the source holds now.

        Raises:
            StreamerError: it is not, or that cannot be told.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    not self._comparing
                    or bool(self._failed)
                    or self.lost is not None
                    or self._closed
                    or interrupted()
                )
            )
            for error in self._failed.values():
                if self._comparing or isinstance(error, SourceChanged):
                    raise type(error)(*error.args) from error

    @property
    def unproven(self) -> bool:
        """Whether the daemon was lost before it had compared what it granted."""
        return self._comparing and self.lost is not None

    def compare_with(self, files: Sequence[LocalFile]) -> None:
        """Do what the daemon did not come to: compare pages of what is granted with the files.

        Raises:
            SourceChanged: a file has other bytes than its slab.
        """
        for number, file in enumerate(files):
            slab = self._slabs[number]
            for start in sample_starts(file.shard.size_bytes):
                block = start // self.block_bytes
                if slab is not None and self.has(number, block, block + 1):
                    _compare_page(slab, file, start)
        self._comparing = False

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
        elif any(len(buffer) for buffer in buffers):
            raise ValueError(f"the slab of shard {shard} was not handed out: nothing can be read")

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


def _compare_page(slab: Slab, file: LocalFile, start: int) -> None:
    size_bytes = min(PAGE_BYTES, file.shard.size_bytes - start)
    ours = bytearray(size_bytes)
    slab.read_into([memoryview(ours)], start)
    if os.pread(file.fd, size_bytes, start) != ours:
        raise SourceChanged(
            f"{file.uri}: has other bytes now than those that lay in memory; load it again"
        )

"""One load that a daemon opened for this client: its granted blocks, and the slabs they are in.

A load ends with its connection; `daemon_feed.py` decides how to go on. The wire's thread reports
what the daemon says, and copying threads wait here.
"""

from __future__ import annotations

import logging
import mmap
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from streamer_client.connecting.connection import Connection
from streamer_client.connecting.wire import DaemonSilent
from streamer_client.contract.checks import check_shards
from streamer_client.contract.errors import (
    DaemonUnavailable,
    ProtocolMismatch,
    SourceChanged,
    StreamerError,
)
from streamer_client.contract.layout import BlockRange, block_count, sample_starts
from streamer_client.contract.messages import (
    Consumed,
    Open,
    Opened,
    OpenedShard,
    Renew,
    Waiting,
    Want,
)
from streamer_client.copy.feed import FeedClosed
from streamer_client.delivery.block_account import BlockAccount
from streamer_client.delivery.leased_slabs import Lease, LeasedSlabs, compare_page
from streamer_client.delivery.slab import Slab
from streamer_client.storage.local_files import LocalFile

logger = logging.getLogger(__name__)

FIRST_REPORT_S: Final = 10.0
"""Seconds until the second log line about waiting; each later one comes after twice as long."""


class LeasedLoad:
    """An opened load. Raises the daemon's refusal as its typed error.

    Args:
        connection: a greeted connection.
        build: makes the `Open` from request id and load number.
        cancelled: asked now and then while the load waits to be admitted.
        credentials_wanted: called in the wire's thread when the daemon wants new credentials, which
            `renew` takes; must not wait.
    """

    shards: tuple[OpenedShard, ...] = ()
    block_bytes: int
    resident_bytes: int
    account: BlockAccount

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
        self.account = BlockAccount((), ())
        self._changed = threading.Condition()
        self._telling = threading.RLock()  # reentrant: finalizers may close a load anywhere
        """Held while the daemon is told of consumed blocks; nobody waits while holding it."""
        self._failed: dict[int, StreamerError] = {}
        self._comparing = False
        """Whether the granted blocks are still being compared with the source."""
        self._waiting_since = self._report_at = 0.0
        self._closed = False
        self._wants_all = False
        """Whether `Open` asks for every block."""
        self.number = connection.listen(self)
        self._slabs = LeasedSlabs(Lease(connection, self.number))
        try:
            self._open(build, cancelled)
        except StreamerError:  # refused, so the daemon knows no such load
            connection.unlisten(self.number)
            self._forget_early()
            raise
        except BaseException:  # interrupted, and the daemon may still open it
            self.close()
            self._forget_early()
            raise
        self._await_slabs()

    def _open(self, build: Callable[[int, int], Open], cancelled: Callable[[], bool]) -> None:
        def asked(request_id: int) -> Open:
            message = build(request_id, self.number)
            self._wants_all = message.want == "all"
            return message

        answer = self.connection.request(asked, None, cancelled)
        if not isinstance(answer, Opened):
            raise ProtocolMismatch(f"the daemon answered Open with {type(answer).__name__}")

    def _await_slabs(self) -> None:
        """Wait for the descriptors of all slabs, which the daemon sends right after its answer.

        If a slab cannot be made, its shard fails, and those who wait for the shard are told.
        """

        def missing() -> bool:
            return bool(self._slabs.missing - self._failed.keys())

        try:
            with self._changed:
                self._changed.wait_for(
                    lambda: not missing() or self.lost is not None or self._closed
                )
                if missing() and self.lost is not None:
                    raise DaemonUnavailable(f"{self.lost}") from self.lost
        except BaseException:
            self.close()
            raise

    # --- the wire's thread -----------------------------------------------------------------------

    def on_opened(self, message: Opened) -> None:
        sizes = ((shard.uri, shard.size_bytes) for shard in message.shards)
        check_shards(sizes, message.block_bytes)
        counts = [block_count(shard.size_bytes, message.block_bytes) for shard in message.shards]
        held = [shard.held for shard in message.shards]
        with self._changed:
            self.block_bytes = message.block_bytes
            self.resident_bytes = message.resident_bytes
            self.account = BlockAccount(counts, held, wants_all=self._wants_all)
            self._comparing = not message.compared
            self.shards = message.shards
            early = self._slabs.expect(message.shards)
        self.on_granted(message.granted)
        self._take_slabs(early)

    def on_slabs(self, shards: tuple[int, ...], descriptors: list[int]) -> None:
        """Take ownership of the descriptors, whether their load and shard are known or not."""
        self._take_slabs(list(zip(shards, descriptors, strict=True)))

    def _take_slabs(self, pairs: Sequence[tuple[int, int]]) -> None:
        with self._changed:
            try:
                self._slabs.take_in(pairs, self.shards)
            finally:
                self._changed.notify_all()

    def _forget_early(self) -> None:
        with self._changed:
            self._closed = True
            self._slabs.forget_early()

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
                if shard in self._failed and shard in self._slabs.missing:
                    continue  # its slab was not handed out
                self.account.grant(shard, start, stop)
            self.account.update_lacking()
            self._changed.notify_all()

    def _check(self, ranges: tuple[BlockRange, ...]) -> None:
        for shard, _, stop in ranges:
            if not self.account.lies_in(shard, stop):
                raise ProtocolMismatch(
                    f"the daemon granted blocks up to {stop} of shard {shard}, which load "
                    f"{self.number} does not have; install the same version on both sides"
                )

    def on_shard_failed(self, shard: int, error: StreamerError) -> None:
        with self._changed:
            self._failed[shard] = error
            if shard in self._slabs.missing:  # even granted blocks cannot be read
                self.account.revoke(shard)
            self._changed.notify_all()

    def on_waiting(self, message: Waiting) -> None:
        """Log that the load waits: at once, then ever more rarely."""
        now = time.monotonic()
        self._waiting_since = self._waiting_since or now
        if now >= self._report_at:
            logger.warning(
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
            if isinstance(error, DaemonSilent):  # it may wake up and release unheld blocks
                self.account.forget()
            self._changed.notify_all()

    # --- what is wanted --------------------------------------------------------------------------

    @property
    def held(self) -> bool:
        """Whether every shard stays resident as a whole."""
        return all(self.account.held)

    def want(self, order: Sequence[BlockRange]) -> None:
        """Want these blocks instead of any wanted before; granted ones are left out."""
        self.give_back()  # first, as the wanted blocks may need the room
        with self._changed:
            self.account.want(order)
        self.connection.send(Want(self.number, tuple(order)))

    def want_all(self, first: Sequence[BlockRange]) -> None:
        """Want these blocks first, then all others that are not granted, in file order."""
        if self.account.complete():
            return
        self.want(self.account.all_after(first))

    def give_back(self) -> None:
        """Tell the daemon of the blocks that were consumed and not told of yet.

        On return, the daemon was told of all of them, also of those that another thread has taken.
        Before a block is wanted again, the daemon must hear that it was consumed.
        """
        with self._telling:
            if ranges := self.account.take_consumed():
                self.connection.send(Consumed(self.number, ranges))

    def renew(self, environment: dict[str, str]) -> None:
        """Give the daemon the environment to read with from now on."""
        self.connection.send(Renew(self.number, environment))

    # --- copying threads -------------------------------------------------------------------------

    def wait(self, shard: int, start: int, stop: int, interrupted: Callable[[], bool]) -> bool:
        """Wait until the blocks are granted.

        Returns:
            Whether they are granted; False when interrupted, closed, or the connection is lost.

        Raises:
            StreamerError: the daemon's error for this shard.
        """
        has = self.account.has
        if has(shard, start, stop):
            return True
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    has(shard, start, stop)
                    or shard in self._failed
                    or self.lost is not None
                    or self._closed
                    or interrupted()
                )
            )
            if has(shard, start, stop):
                return True
            if shard in self._failed:
                error = self._failed[shard]
                raise type(error)(*error.args) from error
            return False

    def read_into(self, buffers: Sequence[memoryview], shard: int, start: int) -> None:
        slab = self._slab(shard)
        if slab is not None:
            slab.read_into(buffers, start)
        elif any(len(buffer) for buffer in buffers):
            raise ValueError(f"the slab of shard {shard} was not handed out: nothing can be read")

    def _slab(self, shard: int) -> Slab | None:
        """A shard's slab; None if the shard has none.

        Raises:
            FeedClosed: another thread has closed the load.
        """
        slab = self._slabs[shard]
        if slab is None and self._closed:
            raise FeedClosed
        return slab

    def image(self, shard: int) -> Slab | None:
        return self._slabs[shard]

    def mapping(self, shard: int) -> mmap.mmap:
        """The private mapping of a held shard; the lease lives as long as any reference to it."""
        with self._changed:
            return self._slabs.mapping(shard)

    def reattach(self, dead: LeasedLoad) -> None:
        """Take over the leases of a dead load's views, if this daemon has adopted their slabs."""
        with self._changed:
            self._slabs.reattach(dead._slabs, self.account.held)

    # --- the load's end --------------------------------------------------------------------------

    def settle(self, interrupted: Callable[[], bool]) -> None:
        """Wait until the granted blocks are known to equal the source as it is now.

        Raises:
            StreamerError: they differ from the source, or that cannot be found out.
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
        """Whether the daemon was lost before it had compared the granted blocks."""
        return self._comparing and self.lost is not None

    def compare_with(self, files: Sequence[LocalFile]) -> None:
        """Compare pages of the granted blocks with the files, as the daemon could not.

        Raises:
            SourceChanged: a file has other bytes than its slab.
        """
        for number, file in enumerate(files):
            slab = self._slab(number)
            for start in sample_starts(file.shard.size_bytes):
                block = start // self.block_bytes
                if slab is not None and self.account.has(number, block, block + 1):
                    compare_page(slab, file, start)
        self._comparing = False

    def forget(self) -> None:
        """Count no block as granted that the daemon may release."""
        with self._changed:
            self.account.forget()

    def interrupt(self) -> None:
        """Wake all waiting threads, so that they ask again whether they were interrupted."""
        with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        """End the load, except for the shards that views still refer to. Idempotent."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.notify_all()
        self.give_back()
        if not self.held:
            self.connection.send(Want(self.number, ()))
        with self._changed:
            self._slabs.close()

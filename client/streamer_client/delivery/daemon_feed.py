"""A feed that reads a daemon's slabs, and reads on when the daemon is lost.

Carries out what `pass_state.py` decides: opens and closes loads and readers, and takes each block
from the one that has it. Copying threads call it. The first of them that notices the loss of the
daemon finds another way for all.
"""

from __future__ import annotations

import mmap
import threading
from collections.abc import Callable, Sequence
from typing import Final, assert_never

from streamer_client.connecting.link import Link
from streamer_client.connecting.source_access import SourceAccess
from streamer_client.contract.errors import (
    DaemonUnavailable,
    MemoryLimitError,
    SourceChanged,
    StreamerError,
)
from streamer_client.contract.layout import BlockRange
from streamer_client.contract.messages import Open
from streamer_client.copy.feed import FeedClosed, FeedShard, Image, Route
from streamer_client.delivery.concurrency import copy_threads
from streamer_client.delivery.direct_feed import DirectFeed, read_ahead_bytes
from streamer_client.delivery.leased_load import LeasedLoad
from streamer_client.delivery.load_requests import LoadRequests
from streamer_client.delivery.page_cached import CachedFiles, first_route, is_resident
from streamer_client.delivery.pass_state import Command, PassProgress, PassState, State, Trigger
from streamer_client.delivery.recovery import Recovery
from streamer_client.storage.local_files import LocalFile

_FINAL: Final = (SourceChanged, FeedClosed)
"""Errors of reopening after which reading directly would fail, too."""


class DaemonFeed:
    """The shards of one `Open`.

    Args:
        link: the way to the daemon.
        request: the source to open, without numbers and environment.
        access: the access to the source.
        files: the opened files of a local source; the feed closes them.
        page_cache: whether a pass over all blocks may read the page cache instead.
        without_memory: whether to read on without the daemon when it has no memory for slabs.
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
        self._options = request.options
        self._files = files
        self._cached = CachedFiles(files)
        self._without_memory = without_memory
        self._requests = LoadRequests(link, request, access, files)
        self._recovery = Recovery(link, request, access, files, self._requests)
        self._state = PassState()
        self._load: LeasedLoad | None = None
        self._reopened: LeasedLoad | None = None
        """The load with the next daemon, until the feed switches to it."""
        self._sources: tuple[LeasedLoad, ...] = ()
        """Loads with slabs to read from: the running one first, then lost ones."""
        self._direct: DirectFeed | None = None
        self._repair = threading.RLock()  # reentrant: finalizers may close a feed anywhere
        """Held while a pass is begun or another way is opened, which may take seconds."""
        self._guard = threading.RLock()
        """Held while pass, state and sources change; never while anything is waited for."""
        self._pass = 0
        self._running = self._closed = False
        self._carry_out(first_route(files, request.options, page_cache=page_cache))
        if self._state.state is State.UNDECIDED and is_resident(self.resident_bytes, self.shards):
            self._carry_out(Trigger.DAEMON_HAS_IT)

    def _open(self, *, wants_all: bool = False, promised: bool = False) -> None:
        """Open the source, and show its shards under the names that the caller knows."""
        load = self._requests.first(self._cancelled(), wants_all=wants_all, promised=promised)
        self._load, self._sources = load, (load,)
        uris = [file.uri for file in self._files] or [shard.uri for shard in load.shards]
        self.shards = tuple(
            FeedShard(uri, shard.size_bytes) for uri, shard in zip(uris, load.shards, strict=True)
        )
        self.block_bytes = load.block_bytes
        self.resident_bytes = load.resident_bytes
        self.read_ahead_bytes = read_ahead_bytes(self._options.memory_limit)
        sizes_bytes = [shard.size_bytes for shard in self.shards]
        self._progress = PassProgress(sizes_bytes, self.block_bytes)

    def _uris(self) -> tuple[str, ...]:
        return tuple(shard.uri for shard in self.shards)

    def _cancelled(self) -> Callable[[], bool]:
        number = self._pass
        return lambda: self._closed or number != self._pass

    @property
    def route(self) -> Route:
        return self._state.route

    @property
    def direct_bytes(self) -> int:
        return 0 if self._direct is None else self._direct.direct_bytes

    @property
    def threads(self) -> int:
        return copy_threads() if self._direct is None else self._direct.threads

    # --- passes ----------------------------------------------------------------------------------

    def begin(self, order: Sequence[BlockRange]) -> int:
        with self._repair:
            number = self._next_pass(running=True)
            trigger = self._progress.begin(tuple(order))
            try:
                self._carry_out(trigger)
            except DaemonUnavailable:
                if self._load is None:
                    raise
                self._go_on_without(self._load, Trigger.DAEMON_LOST, self._load.lost)
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

    def _interrupt(self) -> None:
        for load in self._sources:
            load.interrupt()

    def end(self, number: int) -> None:
        with self._guard:
            if number == self._pass and not self._closed:
                self._next_pass(running=False)
                self._carry_out(self._progress.end())

    def wait(self, number: int, shard: int, block: int) -> None:
        while True:
            if number != self._pass or self._closed:
                raise FeedClosed
            if self._source(shard, block) is not None or self._direct is not None:
                return
            if (load := self._load) is not None:  # None if the feed just went direct
                span = BlockRange(shard, block, block + 1)
                self._await(load, span, lambda: number != self._pass)

    def _await(self, load: LeasedLoad, span: BlockRange, interrupted: Callable[[], bool]) -> None:
        """Wait for blocks; also return when another load or reader must deliver them."""
        try:
            granted = load.wait(*span, interrupted)
        except MemoryLimitError as error:
            if not self._without_memory:
                raise
            self._go_on_without(load, Trigger.MEMORY_REFUSED, error)
            return
        if not granted and load.lost is not None:
            self._go_on_without(load, Trigger.DAEMON_LOST, load.lost)

    def read_into(self, buffers: Sequence[memoryview], shard: int, start: int) -> None:
        source = self._source(shard, start // self.block_bytes) or self._direct
        if source is None:  # the block was consumed, so the pass has ended
            raise FeedClosed
        source.read_into(buffers, shard, start)

    def image(self, shard: int, block: int) -> Image | None:
        source = self._source(shard, block)
        return None if source is None else source.image(shard)

    def consumed(self, number: int, shard: int, block: int) -> None:
        with self._guard:  # otherwise a pass that begins meanwhile would lose the block
            if number != self._pass:
                raise FeedClosed
            self._progress.done[shard][block] = 1
            load = self._source(shard, block)
            tell = load is not None and load.account.consume(shard, block, block + 1)
        if load is not None and tell:
            load.give_back()

    def _source(self, shard: int, block: int) -> LeasedLoad | None:
        for load in self._sources:
            if load.account.has(shard, block, block + 1):
                return load
        return None

    # --- views -----------------------------------------------------------------------------------

    def views(self, shard: int) -> bool:
        return any(load.shards[shard].held for load in self._sources)

    def mapped(self, shard: int, start: int, stop: int) -> mmap.mmap | None:
        load = self._held(BlockRange(shard, start, stop), lambda: self._closed)
        return None if load is None else load.mapping(shard)

    def standing(self, number: int, span: BlockRange, *, wait: bool = True) -> Image | None:
        load = self._held(span, lambda: self._closed or number != self._pass, wait=wait)
        if load is not None:
            return load.image(span.shard)
        if self.route is Route.PAGE_CACHE:
            return self._cached.image(span.shard)
        return None if self._direct is None else self._direct.standing(number, span, wait=wait)

    def _held(
        self, span: BlockRange, over: Callable[[], bool], *, wait: bool = True
    ) -> LeasedLoad | None:
        """Wait for a load that holds these blocks; None if no load does any more, or yet."""
        if self._state.state is State.UNDECIDED:
            with self._repair:
                if self._state.state is State.UNDECIDED:
                    self._carry_out(Trigger.VIEWED)
        while not over():
            for load in self._sources:
                if load.shards[span.shard].held and load.account.has(*span):
                    return load
            if not wait or (running := self._load) is None or not running.shards[span.shard].held:
                return None
            self._await(running, span, over)
        raise FeedClosed

    def settle(self) -> None:
        self._cached.settle()
        for load in self._sources:
            load.settle(lambda: self._closed)
            if load.unproven:
                load.compare_with(self._files)

    # --- another way -----------------------------------------------------------------------------

    def _go_on_without(self, load: LeasedLoad, trigger: Trigger, why: StreamerError | None) -> None:
        """Find another way for the rest of the running pass; the first caller does so for all."""
        with self._repair:
            if self._load is load and not self._closed:
                self._carry_out(trigger, why)
                self._interrupt()

    def _reopen(self) -> None:
        """Let the next daemon deliver the rest, or this process if there is none."""
        lost = self._running_load()
        try:
            self._reopened = self._recovery.with_next_daemon(lost, self._uris(), self._cancelled())
        except BaseException as error:
            if isinstance(error, StreamerError) and not isinstance(error, _FINAL):
                self._carry_out(Trigger.REFUSED, error)
                return
            self._carry_out(Trigger.FAILED)
            raise
        self._carry_out(Trigger.REOPENED)

    def _switch_load(self) -> None:
        with self._guard:
            if self._reopened is not None:
                self._load, self._sources = self._reopened, (self._reopened, *self._sources)
                self._reopened = None
        self._unless_closed()

    def _read_directly(self, why: StreamerError | None) -> None:
        """Open the source in this process; `why` is the daemon's failure, if it failed."""
        load = self._running_load()
        try:
            direct = self._recovery.in_this_process(load, self._uris(), why)
        except BaseException:
            self._carry_out(Trigger.FAILED)
            raise
        with self._guard:
            self._direct = direct
        if why is not None:
            self._carry_out(Trigger.DIRECT_READY)

    def _leave_load(self, load: LeasedLoad, *, close: bool) -> None:
        """Want no more blocks of a load; without `close`, its granted ones stay readable."""
        if close:
            load.close()
        else:
            load.want(())
        with self._guard:
            self._load, self._sources = None, () if close else self._sources
        self._unless_closed()

    def _running_load(self) -> LeasedLoad:
        if self._load is None:
            raise FeedClosed
        return self._load

    # --- carrying out ----------------------------------------------------------------------------

    def _carry_out(self, trigger: Trigger, why: StreamerError | None = None) -> None:
        """Do what a trigger requires; `why` is the daemon's failure, if it failed."""
        with self._guard:
            commands = self._state.move(trigger)
        for command in commands:
            self._do(command, why)

    def _do(self, command: Command, why: StreamerError | None) -> None:
        match command:
            case Command.OPEN_ALL:
                self._open(wants_all=True)
            case Command.OPEN_NONE:
                self._open()
            case Command.OPEN_PROMISED:
                self._open(promised=True)
            case Command.WANT_FIRST | Command.WANT_ONLY | Command.WANT_ALL | Command.GIVE_BACK:
                self._tell(command)
            case Command.REOPEN:
                self._reopen()
            case Command.REATTACH_VIEWS | Command.WANT_REMAINING:
                self._prepare(command)
            case Command.SWITCH_LOAD:
                self._switch_load()
            case Command.READ_DIRECTLY:
                self._read_directly(why)
            case Command.LEAVE_LOAD | Command.CLOSE_LOAD:
                self._leave_load(self._running_load(), close=command is Command.CLOSE_LOAD)
            case Command.CANCEL_PROMISE:
                self._requests.cancel_promise()
            case Command.BRING_IN:
                self._requests.bring_in()
            case Command.CLOSE_SOURCES:
                self._close_sources()
            case _:
                assert_never(command)

    def _tell(self, command: Command) -> None:
        """Tell the daemon which blocks are wanted, or not wanted any more."""
        if command is Command.GIVE_BACK:
            for load in self._sources:
                load.give_back()
            return
        load, order = self._running_load(), self._progress.order
        if command is Command.WANT_ALL:
            load.want(self._progress.everything if load.held else ())
        elif command is Command.WANT_FIRST and load.held:
            load.want_all(order)
        elif load.account.idle():
            load.want(order)
        else:
            self._open_anew(load).want(order)

    def _open_anew(self, load: LeasedLoad) -> LeasedLoad:
        """Open a load for a pass, in place of one that still has blocks of an earlier pass.

        These could fill the window, so that the pass would never get the blocks that it needs.
        """
        load.close()  # first, since both windows may not fit
        load.forget()
        anew = self._requests.again(load, self._uris(), self._cancelled(), hold=False)
        with self._guard:
            self._load = anew
            self._sources = (anew, *(one for one in self._sources if one is not load))
        self._unless_closed()
        return anew

    def _prepare(self, command: Command) -> None:
        """Prepare the reopened load; other threads read from the lost one meanwhile."""
        if (load := self._reopened) is None:
            return
        if command is Command.REATTACH_VIEWS:
            load.reattach(self._running_load())
            return
        remaining = self._progress.remaining(lambda *one: self._source(*one) is not None)
        if load.held:
            load.want_all(remaining)
        elif self._running:
            load.want(remaining)

    # --- end -------------------------------------------------------------------------------------

    def close(self) -> None:
        with self._guard:
            if self._closed:
                return
            self._closed = True
            self._carry_out(Trigger.CLOSE)
        self._requests.close()
        for file in self._files:
            file.close()

    def _unless_closed(self) -> None:
        """If somebody closed the feed meanwhile, close what was just opened."""
        with self._guard:
            if self._closed:
                self._close_sources()
                raise FeedClosed

    def _close_sources(self) -> None:
        for opened in (*self._sources, self._reopened, self._direct):
            if opened is not None:
                opened.close()

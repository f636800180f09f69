"""One table of how a pass over an opened source gets its bytes. Pure: no I/O, threads or clock.

Owns which route delivers, what moves a load to another route, what has to be done at each move, and
the account of what the running pass has read. `daemon_feed.py` fires the triggers and carries the
commands out. `docs/delivery.md` is made from this table (`make diagrams`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import Final, NamedTuple

from streamer_client.contract.layout import BlockRange, block_count
from streamer_client.copy.feed import Route
from streamer_client.copy.plan import blocks, count, in_order, whole


class State(Enum):
    """The relation between one load and its daemon."""

    NEW = "new"
    """Nothing was asked of the daemon yet."""
    UNDECIDED = "undecided"
    """The load is open, and the daemon waits for a request, as the page cache holds the files. The
    first pass over everything will take the page cache, but the first view the daemon."""
    ASKED = "asked"
    """The daemon brings in everything in file order; no pass was begun yet."""
    DAEMON = "daemon"
    """The daemon brings in what passes want."""
    PAGE_CACHE = "page cache"
    """This process reads the files itself; no pass has read all of them yet."""
    PAGE_CACHE_READ = "page cache, read"
    """A pass has read everything from the page cache; the daemon brings it in after the close."""
    RECOVERING = "recovering"
    """The daemon was lost; the load is being opened with the next one."""
    LEAVING = "leaving"
    """The source is being opened in this process, as no daemon can deliver the rest."""
    MIXED = "mixed"
    """Granted blocks are read from the daemon's slabs, the others by this process."""
    CLOSED = "closed"


class Trigger(Enum):
    """An event that moves a load to another state."""

    CACHE_WARM = "the page cache holds all files, and may be used"
    WHOLE = "the page cache cannot be used, and whole shards are to stay resident"
    WINDOW = "the page cache cannot be used, and blocks are to be given back on the way"
    DAEMON_HAS_IT = "the daemon told that it holds a good part already"
    BEGUN_AS_OPENED = "a pass over everything in file order was begun"
    BEGUN_ALL = "a pass over everything in another order was begun"
    BEGUN_PART = "a pass over some blocks was begun"
    VIEWED = "a view of a shard was asked for"
    ENDED_WHOLE = "a pass ended that had read everything"
    ENDED = "a pass ended before it had read everything"
    DAEMON_LOST = "the daemon died, or says nothing any more"
    MEMORY_REFUSED = "the daemon has no memory for more of the load"
    REOPENED = "a daemon opened the same shards again"
    REFUSED = "no daemon answers, or it refuses the load"
    DIRECT_READY = "this process has opened the source itself"
    FAILED = "the source changed, or cannot be read: who waits for a block is told"
    CLOSE = "the load is closed"


class Command(Enum):
    """An action for `daemon_feed.py`; each move lists its actions in order."""

    OPEN_ALL = "open a load that wants everything"
    OPEN_NONE = "open a load that wants nothing"
    OPEN_PROMISED = "open a load that wants nothing, and promise to bring its files in later"
    WANT_FIRST = "want the pass's blocks; where the load is held, all others after them"
    WANT_ONLY = "want the pass's blocks and no others"
    WANT_ALL = "want everything, where the load is held"
    WANT_REMAINING = "want what the running pass still lacks"
    REOPEN = "open the same shards with the next daemon"
    REATTACH_VIEWS = "lease from the new daemon what views refer to"
    READ_DIRECTLY = "open the source in this process"
    SWITCH_LOAD = "go on with the new load; what the lost one granted stays readable"
    LEAVE_LOAD = "want nothing more of the load; what it granted stays readable"
    CLOSE_LOAD = "close the load"
    GIVE_BACK = "tell the daemon of all consumed blocks"
    CANCEL_PROMISE = "let the daemon close the promised files"
    BRING_IN = "have the daemon bring the promised files in"
    CLOSE_SOURCES = "close loads and readers"


class Move(NamedTuple):
    """The state that follows, and what has to be done on the way."""

    state: State
    commands: tuple[Command, ...] = ()


S, T, C = State, Trigger, Command

TRANSITIONS: Final[dict[tuple[State, Trigger], Move]] = {
    # The route is decided before any block is asked for. Through a window, no block is asked for in
    # advance either: the window would be full when the first pass wants other blocks.
    (S.NEW, T.CACHE_WARM): Move(S.UNDECIDED, (C.OPEN_PROMISED,)),
    (S.NEW, T.WHOLE): Move(S.ASKED, (C.OPEN_ALL,)),
    (S.NEW, T.WINDOW): Move(S.DAEMON, (C.OPEN_NONE,)),
    # Only the part is fetched, as all the rest may still come from the page cache.
    (S.UNDECIDED, T.DAEMON_HAS_IT): Move(S.DAEMON, (C.CANCEL_PROMISE, C.WANT_ALL)),
    (S.UNDECIDED, T.BEGUN_AS_OPENED): Move(S.PAGE_CACHE, (C.READ_DIRECTLY, C.CLOSE_LOAD)),
    (S.UNDECIDED, T.BEGUN_ALL): Move(S.PAGE_CACHE, (C.READ_DIRECTLY, C.CLOSE_LOAD)),
    (S.UNDECIDED, T.BEGUN_PART): Move(S.UNDECIDED, (C.WANT_ONLY,)),
    (S.UNDECIDED, T.VIEWED): Move(S.DAEMON, (C.CANCEL_PROMISE, C.WANT_ALL)),
    (S.UNDECIDED, T.ENDED_WHOLE): Move(S.UNDECIDED, (C.GIVE_BACK,)),
    (S.UNDECIDED, T.ENDED): Move(S.UNDECIDED, (C.GIVE_BACK,)),
    (S.UNDECIDED, T.DAEMON_LOST): Move(S.RECOVERING, (C.CANCEL_PROMISE, C.REOPEN)),
    (S.UNDECIDED, T.MEMORY_REFUSED): Move(S.LEAVING, (C.CANCEL_PROMISE, C.READ_DIRECTLY)),
    (S.UNDECIDED, T.CLOSE): Move(S.CLOSED, (C.CLOSE_SOURCES, C.CANCEL_PROMISE)),
    (S.ASKED, T.BEGUN_AS_OPENED): Move(S.DAEMON),
    (S.ASKED, T.BEGUN_ALL): Move(S.DAEMON, (C.WANT_FIRST,)),
    (S.ASKED, T.BEGUN_PART): Move(S.DAEMON, (C.WANT_FIRST,)),
    (S.ASKED, T.DAEMON_LOST): Move(S.RECOVERING, (C.REOPEN,)),
    (S.ASKED, T.MEMORY_REFUSED): Move(S.LEAVING, (C.READ_DIRECTLY,)),
    (S.ASKED, T.CLOSE): Move(S.CLOSED, (C.CLOSE_SOURCES,)),
    (S.DAEMON, T.BEGUN_AS_OPENED): Move(S.DAEMON, (C.WANT_FIRST,)),
    (S.DAEMON, T.BEGUN_ALL): Move(S.DAEMON, (C.WANT_FIRST,)),
    (S.DAEMON, T.BEGUN_PART): Move(S.DAEMON, (C.WANT_FIRST,)),
    (S.DAEMON, T.ENDED_WHOLE): Move(S.DAEMON, (C.GIVE_BACK,)),
    (S.DAEMON, T.ENDED): Move(S.DAEMON, (C.GIVE_BACK,)),
    (S.DAEMON, T.DAEMON_LOST): Move(S.RECOVERING, (C.REOPEN,)),
    (S.DAEMON, T.MEMORY_REFUSED): Move(S.LEAVING, (C.READ_DIRECTLY,)),
    (S.DAEMON, T.CLOSE): Move(S.CLOSED, (C.CLOSE_SOURCES,)),
    # The promise to bring the files in stays, whatever passes follow the one that read everything.
    (S.PAGE_CACHE, T.BEGUN_AS_OPENED): Move(S.PAGE_CACHE),
    (S.PAGE_CACHE, T.BEGUN_ALL): Move(S.PAGE_CACHE),
    (S.PAGE_CACHE, T.BEGUN_PART): Move(S.PAGE_CACHE),
    (S.PAGE_CACHE, T.ENDED_WHOLE): Move(S.PAGE_CACHE_READ),
    (S.PAGE_CACHE, T.ENDED): Move(S.PAGE_CACHE),
    (S.PAGE_CACHE, T.FAILED): Move(S.UNDECIDED),
    (S.PAGE_CACHE, T.CLOSE): Move(S.CLOSED, (C.CLOSE_SOURCES, C.CANCEL_PROMISE)),
    (S.PAGE_CACHE_READ, T.BEGUN_AS_OPENED): Move(S.PAGE_CACHE_READ),
    (S.PAGE_CACHE_READ, T.BEGUN_ALL): Move(S.PAGE_CACHE_READ),
    (S.PAGE_CACHE_READ, T.BEGUN_PART): Move(S.PAGE_CACHE_READ),
    (S.PAGE_CACHE_READ, T.ENDED_WHOLE): Move(S.PAGE_CACHE_READ),
    (S.PAGE_CACHE_READ, T.ENDED): Move(S.PAGE_CACHE_READ),
    (S.PAGE_CACHE_READ, T.CLOSE): Move(S.CLOSED, (C.CLOSE_SOURCES, C.BRING_IN)),
    # A pass may end while another thread looks for a daemon.
    (S.RECOVERING, T.REOPENED): Move(S.DAEMON, (C.REATTACH_VIEWS, C.WANT_REMAINING, C.SWITCH_LOAD)),
    (S.RECOVERING, T.REFUSED): Move(S.LEAVING, (C.READ_DIRECTLY,)),
    (S.RECOVERING, T.FAILED): Move(S.DAEMON),
    (S.RECOVERING, T.ENDED_WHOLE): Move(S.RECOVERING),
    (S.RECOVERING, T.ENDED): Move(S.RECOVERING),
    (S.RECOVERING, T.CLOSE): Move(S.CLOSED, (C.CLOSE_SOURCES,)),
    (S.LEAVING, T.DIRECT_READY): Move(S.MIXED, (C.LEAVE_LOAD,)),
    (S.LEAVING, T.FAILED): Move(S.DAEMON),
    (S.LEAVING, T.ENDED_WHOLE): Move(S.LEAVING),
    (S.LEAVING, T.ENDED): Move(S.LEAVING),
    (S.LEAVING, T.CLOSE): Move(S.CLOSED, (C.CLOSE_SOURCES,)),
    (S.MIXED, T.BEGUN_AS_OPENED): Move(S.MIXED),
    (S.MIXED, T.BEGUN_ALL): Move(S.MIXED),
    (S.MIXED, T.BEGUN_PART): Move(S.MIXED),
    (S.MIXED, T.ENDED_WHOLE): Move(S.MIXED, (C.GIVE_BACK,)),
    (S.MIXED, T.ENDED): Move(S.MIXED, (C.GIVE_BACK,)),
    (S.MIXED, T.CLOSE): Move(S.CLOSED, (C.CLOSE_SOURCES,)),
    # A load that was opened while somebody closed the feed is closed too.
    (S.CLOSED, T.REOPENED): Move(S.CLOSED, (C.CLOSE_SOURCES,)),
    (S.CLOSED, T.DIRECT_READY): Move(S.CLOSED, (C.CLOSE_SOURCES,)),
    # Threads that were about to use the load get FeedClosed at their next block.
    (S.CLOSED, T.BEGUN_AS_OPENED): Move(S.CLOSED),
    (S.CLOSED, T.BEGUN_ALL): Move(S.CLOSED),
    (S.CLOSED, T.BEGUN_PART): Move(S.CLOSED),
    (S.CLOSED, T.VIEWED): Move(S.CLOSED),
    (S.CLOSED, T.DAEMON_LOST): Move(S.CLOSED),
    (S.CLOSED, T.MEMORY_REFUSED): Move(S.CLOSED),
    (S.CLOSED, T.REFUSED): Move(S.CLOSED),
    (S.CLOSED, T.FAILED): Move(S.CLOSED),
    (S.CLOSED, T.CLOSE): Move(S.CLOSED),
}

ROUTES: Final[dict[State, Route]] = {
    State.NEW: Route.DAEMON,
    State.UNDECIDED: Route.DAEMON,
    State.ASKED: Route.DAEMON,
    State.DAEMON: Route.DAEMON,
    State.PAGE_CACHE: Route.PAGE_CACHE,
    State.PAGE_CACHE_READ: Route.PAGE_CACHE,
    State.RECOVERING: Route.DAEMON,
    State.LEAVING: Route.DAEMON,
    State.MIXED: Route.MIXED,
}
"""The route that users are shown; a closed load still shows its last one."""


class IllegalMove(AssertionError):
    """Something happened that cannot happen in this state: a defect, never a user's error."""


class PassState:
    """The state of one load; `move` is what changes it."""

    __slots__ = ("route", "state")

    def __init__(self) -> None:
        self.state = State.NEW
        self.route = Route.DAEMON
        """The route of the bytes; a closed load keeps its last one."""

    def move(self, trigger: Trigger) -> tuple[Command, ...]:
        """Move to the trigger's next state; return the commands to carry out, in order.

        Raises:
            IllegalMove: the table has no such move; nothing has changed.
        """
        try:
            state, commands = TRANSITIONS[self.state, trigger]
        except KeyError:
            raise IllegalMove(f"a load that is {self.state.value!r} met {trigger.name}") from None
        self.state = state
        if state is not State.CLOSED:
            self.route = ROUTES[state]
        return commands


class PassProgress:
    """The blocks that the running pass wants, and those that it has consumed.

    Copying threads note consumed blocks without a lock, each its own.

    Args:
        sizes_bytes: of all shards.
        block_bytes: unit of reading.
    """

    __slots__ = ("_counts", "_everything", "done", "order")

    def __init__(self, sizes_bytes: Sequence[int], block_bytes: int) -> None:
        self._counts = [block_count(size, block_bytes) for size in sizes_bytes]
        self._everything = whole(sizes_bytes, block_bytes)
        self.order: tuple[BlockRange, ...] = ()
        self.done: list[bytearray] = []
        """One byte a block, for each shard: whether the pass has consumed it."""
        self.begin(())

    @property
    def everything(self) -> tuple[BlockRange, ...]:
        """All blocks in file order."""
        return self._everything

    def begin(self, order: tuple[BlockRange, ...]) -> Trigger:
        """Note a new pass; return the trigger for its kind."""
        self.order = order
        self.done = [bytearray(count) for count in self._counts]
        if order == self._everything:
            return Trigger.BEGUN_AS_OPENED
        everything = count(order) == sum(self._counts)
        return Trigger.BEGUN_ALL if everything else Trigger.BEGUN_PART

    def end(self) -> Trigger:
        """The trigger for the end of the pass, by whether it has read everything."""
        whole_pass = all(all(flags) for flags in self.done)
        return Trigger.ENDED_WHOLE if whole_pass else Trigger.ENDED

    def remaining(self, granted: Callable[[int, int], bool]) -> tuple[BlockRange, ...]:
        """Blocks of the pass that are neither consumed nor granted, in its order."""
        return in_order(
            (shard, block)
            for shard, block in blocks(self.order)
            if not self.done[shard][block] and not granted(shard, block)
        )

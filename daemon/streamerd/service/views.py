"""The view of the core for other rooms: its model for reading, and one way to give events in.

This module has only protocols. Code that takes a `ModelView` cannot change the model without a type
error, and code that takes `Events` can only report what happened. `turns.py` implements both.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final, Protocol

from streamerd.state.events import AnyEvent, LoadKey, ShardKey
from streamerd.state.lifecycle import BlockState
from streamerd.state.load import Load
from streamerd.state.model import Ledger, Totals

IN_SLAB: Final = (BlockState.RESIDENT, BlockState.UNPROVEN)
"""The states of a block whose bytes are in the slab, proven or not."""


class ShardView(Protocol):
    """One shard, for reading; see `state.shard.Shard`."""

    @property
    def key(self) -> ShardKey: ...
    @property
    def size_bytes(self) -> int: ...
    @property
    def block_bytes(self) -> int: ...
    @property
    def slab_bytes(self) -> int: ...
    @property
    def resident_bytes(self) -> int: ...
    @property
    def blocks(self) -> int: ...
    @property
    def states(self) -> Sequence[int]: ...
    @property
    def loads(self) -> Mapping[LoadKey, int]: ...
    @property
    def claims(self) -> Sequence[int]: ...
    @property
    def pinned(self) -> bool: ...
    @property
    def remote(self) -> bool: ...
    @property
    def sourced(self) -> bool: ...
    @property
    def last_used_s(self) -> float: ...
    @property
    def error(self) -> tuple[str, str] | None: ...
    def all_resident(self, start: int, stop: int) -> bool: ...
    def bytes_of(self, start: int, stop: int) -> int: ...


class ModelView(Protocol):
    """The state of the core, for reading between two turns."""

    @property
    def shards(self) -> Mapping[ShardKey, ShardView]: ...
    @property
    def loads(self) -> Mapping[LoadKey, Load]: ...
    @property
    def waiting(self) -> Collection[LoadKey]: ...
    @property
    def ledger(self) -> Ledger: ...
    @property
    def totals(self) -> Totals: ...


class Events(Protocol):
    """The way in which other rooms tell the core what happened."""

    @property
    def now_s(self) -> float:
        """The time that events carry, by the loop's clock."""
        ...

    def post(self, event: AnyEvent) -> None:
        """Give an event to the core in its next turn."""
        ...


class Decisions(Events, Protocol):
    """Lets a request that depends on the core's decision have it at once."""

    @property
    def changes(self) -> int:
        """The number of turns in which more happened than that time passed.

        While it stays the same, so do all shards.
        """
        ...

    def decide(self, *events: AnyEvent) -> None:
        """Let the core decide at once on the events that wait and on these."""
        ...

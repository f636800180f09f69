"""Events, the input of a search, and commands, its output.

Each event is a past fact about the last command of the search, with its time in `at_s`. The caller,
which owns the sockets, carries each command out and tells the search how it ended.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Event:
    """Base of all events; `at_s` is seconds of a clock that only goes forward."""

    at_s: float


@dataclass(frozen=True, slots=True)
class Arrived(Event):
    """The peer sent the block, and its bytes have their checksum (200 or 206)."""


@dataclass(frozen=True, slots=True)
class SentElsewhere(Event):
    """The peer is busy and named another that has the block (307)."""

    holder: str


@dataclass(frozen=True, slots=True)
class NotYet(Event):
    """The peer does not hand the block over now (503)."""

    holds: bool
    """Whether the peer has the block and is busy; otherwise it waits for the block itself."""


@dataclass(frozen=True, slots=True)
class NotThere(Event):
    """The peer does not have the block and will not get it (404)."""

    loads_shard: bool
    """Whether the peer loads the shard at all, so that it may be asked for other blocks."""


@dataclass(frozen=True, slots=True)
class Silent(Event):
    """The peer could not be reached, broke off, did not answer in time, or refused this node."""


@dataclass(frozen=True, slots=True)
class Corrupt(Event):
    """The peer sent bytes that do not have their checksum, or an answer to another question."""


@dataclass(frozen=True, slots=True)
class PauseOver(Event):
    """The time of a `Pause` is over."""


AnyEvent = Arrived | SentElsewhere | NotYet | NotThere | Silent | Corrupt | PauseOver


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask this peer for the block."""

    peer: str
    patient: bool
    """Whether the peer may hold its answer back for a while until it has the block."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Hold no connection and do nothing for a time; then tell the search `PauseOver`."""

    wait_s: float


@dataclass(frozen=True, slots=True)
class ReadStore:
    """Read the block from the store. The search is over."""

    reason: str
    """The reason in snake case, for counters and log lines: one of `READ_STORE_REASONS`."""


@dataclass(frozen=True, slots=True)
class Done:
    """The block is here. The search is over."""


Command = Ask | Pause | ReadStore | Done

OWNER = "owner"
"""Reason: this node is the block's owner, and reads the block for the whole fleet."""
ALONE = "alone"
"""Reason: there is no peer to ask."""
CORRUPT = "corrupt"
"""Reason: a peer sent wrong bytes."""
SILENT = "silent"
"""Reason: several peers, one after the other, did not answer."""
WAITED = "waited"
"""Reason: no peer got the block within the time that a node waits for the fleet."""
READ_STORE_REASONS = (OWNER, ALONE, CORRUPT, SILENT, WAITED)

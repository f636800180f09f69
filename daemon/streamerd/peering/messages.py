"""Messages between the daemon and the fleet's process, over a socket pair. Pure."""

from __future__ import annotations

from typing import Final

import msgspec

from streamerd.settings.fleet import Terms

# --- daemon to process ----------------------------------------------------------------------------


class Begin(msgspec.Struct, frozen=True, tag=True):
    """Listen, and join the fleet."""

    terms: Terms


class Holding(msgspec.Struct, frozen=True, tag=True):
    """The block is in memory; a read-only descriptor of its slab comes along."""

    number: int
    checksum: int


class NotHeld(msgspec.Struct, frozen=True, tag=True):
    """The block is not in memory; the fields are as in `holdings.Missing`."""

    number: int
    awaited: bool
    known: bool
    coming: bool = False


# --- process to daemon ----------------------------------------------------------------------------


class Look(msgspec.Struct, frozen=True, tag=True):
    """A peer asks for a block. Answered by `Holding` or `NotHeld`."""

    number: int
    shard: str
    """As `wire.shard_name` makes it."""
    start: int
    stop: int
    wait_s: float
    """How long to hold the answer back where the block is awaited."""


class Got(msgspec.Struct, frozen=True, tag=True):
    """The descriptor of this `Holding` arrived."""

    number: int


class Fellows(msgspec.Struct, frozen=True, tag=True):
    """Who is in the fleet now."""

    me: str
    members: frozenset[str]
    error: str = ""
    """Why the engine of membership does not answer; empty while it does."""


class Tally(msgspec.Struct, frozen=True, tag=True):
    """What was served since the process started."""

    sent_bytes: int
    answers: dict[str, int]
    connections: int


FromDaemon = Begin | Holding | NotHeld
FromProcess = Look | Got | Fellows | Tally

from_daemon: Final = msgspec.msgpack.Decoder(FromDaemon)
from_process: Final = msgspec.msgpack.Decoder(FromProcess)

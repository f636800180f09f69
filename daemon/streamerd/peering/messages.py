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
    """The block is not in memory; the fields mean what they do in `holdings.Missing`."""

    number: int
    awaited: bool
    known: bool
    coming: bool = False


# --- process to daemon ----------------------------------------------------------------------------


class Look(msgspec.Struct, frozen=True, tag=True):
    """A peer asks for a block. The daemon answers with `Holding` or `NotHeld`."""

    number: int
    shard: str
    """The shard's name, as `wire.shard_name` makes it."""
    start: int
    stop: int
    wait_s: float
    """Seconds for which the answer may wait for the block if it is awaited."""


class Got(msgspec.Struct, frozen=True, tag=True):
    """The descriptor of this `Holding` arrived."""

    number: int


class Fellows(msgspec.Struct, frozen=True, tag=True):
    """The members of the fleet have changed."""

    me: str
    members: frozenset[str]
    error: str = ""
    """Why the engine of membership does not answer; empty while it does."""


class Tally(msgspec.Struct, frozen=True, tag=True):
    """Figures of what this process has served since it started."""

    sent_bytes: int
    answers: dict[str, int]
    connections: int


FromDaemon = Begin | Holding | NotHeld
FromProcess = Look | Got | Fellows | Tally

from_daemon: Final = msgspec.msgpack.Decoder(FromDaemon)
from_process: Final = msgspec.msgpack.Decoder(FromProcess)

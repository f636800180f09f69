"""What the serving threads ask of the daemon, and what it answers. The border to `peering/`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Protocol

from streamerd.fleet.wire import Asked


@dataclass(frozen=True, slots=True)
class Held:
    """The block is in memory. Whoever gets this closes it."""

    fd: int
    """Of its slab, opened for reading; a block lies there at its offset in the object."""
    checksum: int

    def close(self) -> None:
        os.close(self.fd)


@dataclass(frozen=True, slots=True)
class Missing:
    """The block is not in memory."""

    awaited: bool
    """Whether it is on its way, or wanted by a load."""
    known: bool
    """Whether the daemon has the shard open at all."""
    coming: bool = False
    """Whether this node reads it from the store now, so that it waits for no other node."""


class Holdings(Protocol):
    """The daemon, as the serving threads see it. Thread-safe."""

    def look(self, asked: Asked, wait_s: float) -> Held | Missing:
        """Ask for a block; where it is awaited, wait at most so long until it is there."""
        ...

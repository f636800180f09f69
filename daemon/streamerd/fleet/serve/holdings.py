"""The questions of the serving threads to the daemon, and its answers: the border to `peering/`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Protocol

from streamerd.fleet.wire import Asked


@dataclass(frozen=True, slots=True)
class Held:
    """The block is in memory. The receiver of this closes its descriptor."""

    fd: int
    """Descriptor of the block's slab, opened for reading. A block lies there at its offset in the
    object."""
    checksum: int

    def close(self) -> None:
        os.close(self.fd)


@dataclass(frozen=True, slots=True)
class Missing:
    """The block is not in memory."""

    awaited: bool
    """Whether the block is on its way, or a load wants it."""
    known: bool
    """Whether the daemon has the shard open at all."""
    coming: bool = False
    """Whether this node reads the block from the store now, and so waits for no other node."""


class Holdings(Protocol):
    """The daemon, as the serving threads see it. Thread-safe."""

    def look(self, asked: Asked, wait_s: float) -> Held | Missing:
        """Ask for a block; if it is awaited, wait for it for at most `wait_s` seconds."""
        ...

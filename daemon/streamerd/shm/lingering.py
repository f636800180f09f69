"""Slabs that were given up while others have them open: memory that no account shows.

Only slabs of an earlier daemon's clients can be such: nothing is taken from under their views, so
the slab is unlinked whole and its memory goes with whoever lets go of it last. Until then one
descriptor of each is kept here, so that `status` can say how much it is. Called from the loop and
its executor.
"""

from __future__ import annotations

import os
import threading

from streamerd.shm.slabs import is_open_elsewhere

_BLOCK_BYTES = 512
"""Unit of `st_blocks`, whatever the file system; see stat(2)."""


class Lingering:
    """The slabs that are unlinked and still used."""

    def __init__(self) -> None:
        self._descriptors: list[int] = []
        self._lock = threading.Lock()

    def keep(self, descriptor: int) -> bool:
        """Take an unlinked slab's last descriptor of ours over, if somebody else has one too."""
        if not is_open_elsewhere(descriptor):
            return False
        with self._lock:
            self._descriptors.append(descriptor)
        return True

    def look(self) -> None:
        """Let go of those that nobody else has open any more."""
        with self._lock:
            gone = [one for one in self._descriptors if not is_open_elsewhere(one)]
            self._descriptors = [one for one in self._descriptors if one not in gone]
        for descriptor in gone:
            os.close(descriptor)

    @property
    def size_bytes(self) -> int:
        """Memory behind them."""
        with self._lock:
            return sum(os.fstat(one).st_blocks * _BLOCK_BYTES for one in self._descriptors)

    def close(self) -> None:
        """Forget them; whoever has them open keeps them."""
        with self._lock:
            descriptors, self._descriptors = self._descriptors, []
        for descriptor in descriptors:
            os.close(descriptor)

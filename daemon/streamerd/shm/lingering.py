"""Unlinked slabs that clients still have open: memory that the ledger does not count.

If clients of an earlier daemon have a slab mapped, no single block of it can be released. Such a
slab is unlinked as a whole, and the kernel frees it when the last client unmaps it. Until then it
lingers, and this module has a descriptor of it, so that `status` can tell its size. Called from the
daemon's loop and its executor.
"""

from __future__ import annotations

import os
import threading

from streamerd.shm.slabs import is_open_elsewhere

_BLOCK_BYTES = 512
"""The unit of `st_blocks` on every file system; see stat(2)."""


class Lingering:
    """The slabs that are unlinked and still open in other processes."""

    def __init__(self) -> None:
        self._descriptors: list[int] = []
        self._lock = threading.Lock()

    def keep(self, descriptor: int) -> bool:
        """Own the daemon's last descriptor of an unlinked slab from now on.

        Returns:
            Whether another process has the slab open. If not, the descriptor stays the caller's.
        """
        if not is_open_elsewhere(descriptor):
            return False
        with self._lock:
            self._descriptors.append(descriptor)
        return True

    def look(self) -> None:
        """Close the slabs that no other process has open any more."""
        with self._lock:
            gone = [one for one in self._descriptors if not is_open_elsewhere(one)]
            self._descriptors = [one for one in self._descriptors if one not in gone]
        for descriptor in gone:
            os.close(descriptor)

    @property
    def size_bytes(self) -> int:
        """Bytes of memory that these slabs take."""
        with self._lock:
            return sum(os.fstat(one).st_blocks * _BLOCK_BYTES for one in self._descriptors)

    def close(self) -> None:
        """Close all these slabs; clients that have them open can still read them."""
        with self._lock:
            descriptors, self._descriptors = self._descriptors, []
        for descriptor in descriptors:
            os.close(descriptor)

"""A slab as a fetch worker writes it: back, fill and punch ranges of it.

There are two ways to fill a slab, and neither is best everywhere. One way is system calls, from a
small buffer that stays in the processor's cache. They cause no page faults, and so move 1.5 times
as many bytes in a second of processor time. But the kernel lets only one thread at a time write to
a file. The other way is a mapping: every 4 KiB cost a fault and a zeroed page, but all threads
write at the same time. Where the kernel makes huge pages on demand (`huge_pages.py`), the mapping
is better for any number of threads. docs/performance.md has the measurements.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import threading
from typing import Final

from streamerd.shm.huge_pages import EXTENT_BYTES, AlignedMapping, can_collapse

_KEEP_SIZE: Final = 0x01
_PUNCH_HOLE: Final = 0x02
"""FALLOC_FL_KEEP_SIZE and FALLOC_FL_PUNCH_HOLE of <linux/falloc.h>."""

_libc = ctypes.CDLL(None, use_errno=True)
_fallocate = _libc.fallocate64 if hasattr(_libc, "fallocate64") else _libc.fallocate
_fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


class NoSpace(Exception):
    """The shared-memory mount is full; nothing was reserved."""


class SlabFile:
    """An existing slab, opened for writing. Thread-safe for ranges that do not overlap.

    Args:
        fd: the slab, open for reading and writing. `close` closes it. If the constructor raises,
            the caller still owns it.
        mapped: whether to fill the slab through a mapping (`view`) instead of by system calls
            (`write`).
    """

    def __init__(self, fd: int, *, mapped: bool) -> None:
        self._map = AlignedMapping(fd) if mapped else None
        self._fd = fd
        self._collapses = mapped and can_collapse()
        # The kernel lets one thread at a time back or write a file, while others spin. With 16
        # threads at one slab, spinning took twice the processor time that waiting here takes.
        self._turn = threading.Lock()

    def reserve(self, start: int, stop: int) -> None:
        """Put memory behind bytes `start` to `stop`; a full mount is noticed here and only here.

        Raises:
            NoSpace: the mount is full.
        """
        try:
            self._back(start, stop)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.ENOMEM):
                self.punch(start, stop)  # a part was backed before the mount was full
                raise NoSpace(error.strerror) from error
            raise

    def _back(self, start: int, stop: int) -> None:
        first = -(-start // EXTENT_BYTES) * EXTENT_BYTES
        past = stop // EXTENT_BYTES * EXTENT_BYTES
        if self._map is None or not self._collapses or first >= past:
            self._allocate(start, stop)
            return
        for extent in range(first, past, EXTENT_BYTES):
            self._allocate(extent, extent + mmap.PAGESIZE)
        if not self._map.collapse(first, past):
            # The kernel has no huge page now: back the extents with small pages.
            self._allocate(first, past)
        self._allocate(start, first)
        self._allocate(past, stop)

    def _allocate(self, start: int, stop: int) -> None:
        if start < stop:
            with self._turn:
                os.posix_fallocate(self._fd, start, stop - start)

    def view(self, start: int, stop: int) -> memoryview | None:
        """A view of bytes `start` to `stop`, to fill them in place; None if the slab is not mapped.

        The caller must release the view before the slab is closed.
        """
        return None if self._map is None else self._map.bytes[start:stop]

    def write(self, data: memoryview, start: int) -> None:
        """Put `data` at byte `start`; the range must be reserved."""
        done = 0
        while done < len(data):
            with self._turn:
                done += os.pwrite(self._fd, data[done:], start + done)

    def read(self, buffer: memoryview, start: int) -> None:
        """Fill the whole of `buffer` from byte `start` on; ranges without memory read as zeros.

        Raises:
            OSError: the slab ends before the buffer is full.
        """
        done = 0
        while done < len(buffer):
            count = os.preadv(self._fd, [buffer[done:]], start + done)
            if count == 0:
                raise OSError(errno.EIO, f"the slab ends at byte {start + done}")
            done += count

    def punch(self, start: int, stop: int) -> None:
        """Give the memory behind these bytes back at once; they read as zeros from then on."""
        punch_hole(self._fd, start, stop)

    def close(self) -> None:
        """Unmap and close. Idempotent."""
        if self._fd >= 0:
            if self._map is not None:
                self._map.close()
            os.close(self._fd)
            self._fd = -1


def punch_hole(fd: int, start: int, stop: int) -> None:
    """Give the memory behind bytes `start` to `stop` of an object back.

    Raises:
        OSError: it cannot be done.
    """
    if _fallocate(fd, _KEEP_SIZE | _PUNCH_HOLE, start, stop - start):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))

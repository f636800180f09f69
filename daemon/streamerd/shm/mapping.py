"""A worker's writable mapping of one slab: back, fill and punch ranges of it."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from typing import Final

import posix_ipc

_KEEP_SIZE: Final = 0x01
_PUNCH_HOLE: Final = 0x02
"""FALLOC_FL_KEEP_SIZE and FALLOC_FL_PUNCH_HOLE of <linux/falloc.h>."""

_libc = ctypes.CDLL(None, use_errno=True)
_fallocate = _libc.fallocate64 if hasattr(_libc, "fallocate64") else _libc.fallocate
_fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


class NoSpace(Exception):
    """The shared-memory mount is full; nothing was reserved."""


class SlabMapping:
    """Maps an existing slab read-write. Thread-safe for ranges that do not overlap."""

    def __init__(self, name: str) -> None:
        memory = posix_ipc.SharedMemory(name)
        try:
            self._fd = os.dup(memory.fd)
            os.set_inheritable(self._fd, False)
        finally:
            memory.close_fd()
        self._map = mmap.mmap(self._fd, 0)
        self._bytes = memoryview(self._map)

    def reserve(self, start: int, stop: int) -> None:
        """Put memory behind bytes `start` to `stop`, so that writing them cannot end in SIGBUS.

        Raises:
            NoSpace: the mount is full.
        """
        try:
            os.posix_fallocate(self._fd, start, stop - start)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.ENOMEM):
                raise NoSpace(error.strerror) from error
            raise

    def view(self, start: int, stop: int) -> memoryview:
        """Writable bytes `start` to `stop`; release it before closing the mapping."""
        return self._bytes[start:stop]

    def punch(self, start: int, stop: int) -> None:
        """Give the memory behind these bytes back at once; they read as zeros from then on."""
        if _fallocate(self._fd, _KEEP_SIZE | _PUNCH_HOLE, start, stop - start):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    def close(self) -> None:
        """Unmap. Idempotent."""
        if self._fd >= 0:
            self._bytes.release()
            self._map.close()
            os.close(self._fd)
            self._fd = -1

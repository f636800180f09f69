"""A worker's descriptor of one slab: back, write and punch ranges of it.

Bytes are written by system call, out of a small buffer that stays in the processor's cache, and
not read into a mapping: filling a mapping costs a page fault and a zeroed page for every 4 KiB.
Measured on two processors, checksum included: 0.70 s of processor time a GiB instead of 1.05, and
1.3 to 1.9 times as fast.
"""

from __future__ import annotations

import ctypes
import errno
import os
import threading
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


class SlabFile:
    """An existing slab, opened for writing. Thread-safe for ranges that do not overlap."""

    def __init__(self, name: str) -> None:
        memory = posix_ipc.SharedMemory(name)
        try:
            self._fd = os.dup(memory.fd)
            os.set_inheritable(self._fd, False)
        finally:
            memory.close_fd()
        # The kernel lets one thread at a time back or write a file, and the others spin meanwhile:
        # with 16 threads at one slab that took twice the processor time of waiting here.
        self._turn = threading.Lock()

    def reserve(self, start: int, stop: int) -> None:
        """Put memory behind bytes `start` to `stop`, so that a full mount shows here and only here.

        Raises:
            NoSpace: the mount is full.
        """
        try:
            with self._turn:
                os.posix_fallocate(self._fd, start, stop - start)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.ENOMEM):
                raise NoSpace(error.strerror) from error
            raise

    def write(self, data: memoryview, start: int) -> None:
        """Put `data` at byte `start`; the range is reserved."""
        done = 0
        while done < len(data):
            with self._turn:
                done += os.pwrite(self._fd, data[done:], start + done)

    def punch(self, start: int, stop: int) -> None:
        """Give the memory behind these bytes back at once; they read as zeros from then on."""
        if _fallocate(self._fd, _KEEP_SIZE | _PUNCH_HOLE, start, stop - start):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    def close(self) -> None:
        """Close the descriptor. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
